"""The command `neurobento parcellate`, on this machine or through a service."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from neurobento.cli.options import Work, add_file_options, add_model_options, local_backend
from neurobento.environment import client_token
from neurobento.errors import ConfigError
from neurobento.preprocessing.mode import PREPROCESSINGS, Progress
from neurobento.registry import DEFAULT_MODEL

__all__ = ["add_parcellate_options", "open_parcellate"]

LOCAL_OPTIONS = ("models", "backend", "device", "precision", "threads")
SERVICE_OPTIONS = ("token_file", "timeout")


def add_parcellate_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_file_options(command, "SCAN", ".nii, .nii.gz or .mgz", DEFAULT_MODEL)
    command.add_argument(
        "--preprocessing",
        choices=PREPROCESSINGS,
        default="full",
        help="full: a head with skull; stripped: the skull is gone; none: on the network grid",
    )
    add_model_options(command.add_argument_group("on this machine"))
    service = command.add_argument_group("through a service")
    service.add_argument("--url", help="http[s]://HOST[:PORT] or grpc[s]://HOST:PORT")
    service.add_argument(
        "--token-file", type=Path, help="holds the token; without it NEUROBENTO_TOKEN does"
    )
    service.add_argument("--timeout", type=float, metavar="SECONDS", help="for each scan")


def open_parcellate(args: argparse.Namespace, say: Progress) -> AbstractContextManager[Work]:
    """What parcellates scans, where the options say.

    Raises
    ------
    ConfigError
        An option would have no effect there.
    """
    _refuse_stray_options(args)
    return nullcontext(_here(args, say)) if args.url is None else _at_service(args, say)


def _here(args: argparse.Namespace, say: Progress) -> Work:
    # opened for the first scan that could be read
    backend = local_backend(args, "parcellation")
    from neurobento.facts import backend_facts
    from neurobento.imaging.scan import read_scan, scan_name
    from neurobento.parcellation.outputs import output_files
    from neurobento.parcellation.parcellator import Parcellator

    def parcellate(path: Path) -> tuple[dict[str, bytes], list[str]]:
        scan = read_scan(path)
        parcellator = Parcellator(backend())
        parcellation = parcellator.parcellate(scan, args.preprocessing, progress=say)
        say("write")
        facts = backend_facts(backend())
        return output_files(scan_name(path), scan, parcellation, facts), parcellation.warnings

    return parcellate


@contextmanager
def _at_service(args: argparse.Namespace, say: Progress) -> Iterator[Work]:
    from neurobento.client import Client
    from neurobento.client.outputs import output_files_of
    from neurobento.imaging.scan import scan_name

    last = ""

    def say_once(stage: str, _: int | None) -> None:
        nonlocal last
        if stage not in (last, "done"):
            say(stage)
        last = stage

    def parcellate(path: Path) -> tuple[dict[str, bytes], list[str]]:
        answer = client.parcellate(path, model=args.model, preprocessing=args.preprocessing)
        say("write")
        return output_files_of(answer, scan_name(path), path), answer.warnings

    token = _token(args.token_file)
    with Client(args.url, token=token, timeout_s=args.timeout, progress=say_once) as client:
        yield parcellate


def _token(file: Path | None) -> str | None:
    if file is None:
        return client_token()
    return file.read_text(encoding="utf-8", errors="replace").strip()


def _refuse_stray_options(args: argparse.Namespace) -> None:
    """Refuse what would have no effect where the work is done."""
    names: tuple[str, ...]
    if args.url is None:
        names, expected, found = SERVICE_OPTIONS, "--url beside it: it is for a service", "none"
    else:
        names, expected, found = LOCAL_OPTIONS, "no --url beside it: the service decides it", "one"
    for name in names:
        if getattr(args, name) is not None:
            raise ConfigError(
                subject=f"--{name.replace('_', '-')}",
                expected=expected,
                found=found,
                remedy="Add --url, or leave this out." if args.url is None else "Leave one out.",
            )
