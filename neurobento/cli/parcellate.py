"""The command `neurobento parcellate`: parcellate scans on this machine or through a service."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from neurobento.cli.each_file import ProcessFile, process_each_file
from neurobento.cli.options import (
    Commands,
    add_file_options,
    add_model_options,
    add_preprocessing_option,
    backend_opener,
)
from neurobento.environment import client_token
from neurobento.errors import ConfigError
from neurobento.preprocessing.mode import Progress
from neurobento.registry import DEFAULT_MODEL

__all__ = ["add_parcellate_command"]

LOCAL_OPTIONS = ("models", "backend", "device", "precision", "threads", "bias_corrected")
SERVICE_OPTIONS = ("token_file", "timeout")


def add_parcellate_command(commands: Commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "parcellate",
        help="label the brain regions of T1 scans, on this machine or through a service",
        description="Label the 116 AAL regions of T1-weighted scans. Writes NAME_dseg.nii.gz "
        "(the labels on the scan's own voxels), NAME_dseg.tsv (the names of the labels), "
        "NAME_volumes.tsv, NAME_overlay.png and NAME_run.json; models of preprocessing version 2 "
        "NAME_mask.nii.gz (the brain) too.",
    )
    command.set_defaults(run=_run)
    add_file_options(command, "SCAN", "a scan: .nii, .nii.gz or .mgz", DEFAULT_MODEL)
    add_preprocessing_option(command)
    here = command.add_argument_group("on this machine")
    add_model_options(here, "all cores")
    here.add_argument(
        "--bias-corrected",
        action="store_true",
        default=None,
        help="write NAME_bias_corrected.nii.gz too, for models of preprocessing version 2",
    )
    service = command.add_argument_group("through a service")
    service.add_argument("--url", help="http[s]://HOST[:PORT] or grpc[s]://HOST:PORT")
    # no option for the token itself: the list of processes would show it
    service.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file that holds the token; default: the variable NEUROBENTO_TOKEN",
    )
    service.add_argument("--timeout", type=float, metavar="SECONDS", help="time limit of each scan")


def _run(args: argparse.Namespace) -> int:
    return process_each_file(args, _open_processor, "dseg.nii.gz")


def _open_processor(
    args: argparse.Namespace, progress: Progress
) -> AbstractContextManager[ProcessFile]:
    _refuse_unused_options(args)
    if args.url is None:
        return nullcontext(_local_processor(args, progress))
    return _service_processor(args, progress)


def _local_processor(args: argparse.Namespace, progress: Progress) -> ProcessFile:
    # opened for the first scan that can be read
    backend = backend_opener(args, "parcellation")
    from neurobento.facts import backend_facts
    from neurobento.imaging.scan import read_scan, scan_name
    from neurobento.parcellation.outputs import output_files, require_mask
    from neurobento.parcellation.parcellator import Parcellator

    def parcellate(path: Path) -> tuple[dict[str, bytes], list[str]]:
        scan = read_scan(path)
        parcellator = Parcellator(backend())
        if args.bias_corrected:
            require_mask(backend().spec.preprocessing_version, args.preprocessing)
        parcellation = parcellator.parcellate(scan, args.preprocessing, progress=progress)
        progress("write")
        files = output_files(
            scan_name(path),
            scan,
            parcellation,
            backend_facts(backend()),
            bias_corrected=bool(args.bias_corrected),
        )
        return files, parcellation.warnings

    return parcellate


@contextmanager
def _service_processor(args: argparse.Namespace, progress: Progress) -> Iterator[ProcessFile]:
    from neurobento.cli.service_outputs import response_output_files
    from neurobento.client import Client
    from neurobento.imaging.scan import scan_name

    last_stage = ""

    # the client reports a stage again and again while its bytes move
    def report_once(stage: str, _: int | None) -> None:
        nonlocal last_stage
        if stage not in (last_stage, "done"):
            progress(stage)
        last_stage = stage

    def parcellate(path: Path) -> tuple[dict[str, bytes], list[str]]:
        answer = client.parcellate(path, model=args.model, preprocessing=args.preprocessing)
        progress("write")
        return response_output_files(answer, scan_name(path), path), answer.warnings

    token = client_token() if args.token_file is None else _read_token(args.token_file)
    with Client(args.url, token=token, timeout_s=args.timeout, progress=report_once) as client:
        yield parcellate


def _read_token(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace").strip()


def _refuse_unused_options(args: argparse.Namespace) -> None:
    """Refuse options that would have no effect with --url, or without it."""
    for name in SERVICE_OPTIONS if args.url is None else LOCAL_OPTIONS:
        if getattr(args, name) is None:
            continue
        option = f"--{name.replace('_', '-')}"
        if args.url is None:
            raise ConfigError(
                subject=option,
                expected="--url beside it, because it is for a service",
                found="no --url",
                remedy=f"Add --url, or leave {option} out.",
            )
        raise ConfigError(
            subject=option,
            expected="no --url beside it, because the service decides this",
            found="--url",
            remedy=f"Leave out {option} or --url.",
        )
