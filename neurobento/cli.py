"""The command `neurobento`.

Environment: NEUROBENTO_TOKEN, the token of `parcellate --url`; a token given as
an argument would stand in the list of processes.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from neurobento.command import run
from neurobento.errors import (
    ConfigError,
    DeadlineExceeded,
    NeuroBentoError,
    PreprocessingError,
    RequestRefused,
    ScanError,
)
from neurobento.preprocessing.levels import LEVELS
from neurobento.preprocessing.threads import limit_threads
from neurobento.registry import DEFAULT_MODEL

__all__ = ["main"]

Parcellate = Callable[[Path], tuple[dict[str, bytes], list[str]]]
"""A scan's output files, by name, and the warnings about them."""

LOCAL_OPTIONS = ("models", "backend", "device", "precision", "threads")
SERVICE_OPTIONS = ("token_file", "timeout")

OF_ONE_SCAN = (ScanError, PreprocessingError, RequestRefused, DeadlineExceeded)
"""Errors that do not keep the next scan from being parcellated."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 1 an error that the message on stderr explains."""
    args = _parser().parse_args(argv)
    return run(lambda: args.run(args), "neurobento")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neurobento", description="Brain-MRI parcellation into the 116 AAL regions."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_parcellate(commands)
    models = commands.add_parser("models", help="list the models")
    models.add_argument("--models", type=Path, help="folder of models")
    models.set_defaults(run=_models)
    sample = commands.add_parser("sample", help="write a T1 scan to try things on")
    sample.add_argument("file", type=Path, help="where to, .nii.gz")
    sample.set_defaults(run=_sample)
    return parser


def _add_parcellate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "parcellate",
        help="parcellate T1 scans, here or through a service",
        description="Writes NAME_dseg.nii.gz (native space), NAME_dseg.tsv, NAME_volumes.tsv, "
        "NAME_overlay.png and NAME_run.json.",
    )
    command.add_argument("scan", type=Path, nargs="+", help=".nii, .nii.gz or .mgz")
    command.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    command.add_argument("--model", default=DEFAULT_MODEL)
    command.add_argument(
        "--preprocessing",
        choices=LEVELS,
        default="full",
        help="full: a head with skull; stripped: the skull is gone; none: on the network grid",
    )
    here = command.add_argument_group("on this machine")
    here.add_argument("--models", type=Path, help="folder of models")
    here.add_argument(
        "--backend",
        help="auto, tensorrt, tensorrt-rtx, openvino, onnxruntime, onnxruntime-tensorrt, pytorch "
        "or pytorch-compiled",
    )
    here.add_argument("--device", help="auto, cpu or cuda")
    here.add_argument("--precision")
    here.add_argument("--threads", type=int)
    service = command.add_argument_group("through a service")
    service.add_argument("--url", help="http[s]://HOST[:PORT] or grpc[s]://HOST:PORT")
    service.add_argument(
        "--token-file", type=Path, help="holds the token; without it NEUROBENTO_TOKEN does"
    )
    service.add_argument("--timeout", type=float, metavar="SECONDS", help="for each scan")
    command.set_defaults(run=_parcellate)


def _parcellate(args: argparse.Namespace) -> int:
    _refuse_stray_options(args)
    _check_scans(args.scan)
    with nullcontext(_here(args)) if args.url is None else _at_service(args) as parcellate:
        return max([_write(path, args, parcellate) for path in args.scan])


def _write(path: Path, args: argparse.Namespace, parcellate: Parcellate) -> int:
    """The status of one scan, its files written."""
    from neurobento.scan import scan_name, write_whole

    if len(args.scan) > 1:
        print(f"{path}:", file=sys.stderr, flush=True)
    try:
        files, warnings = parcellate(path)
    except OF_ONE_SCAN as error:
        named: NeuroBentoError = error if error.subject else error.about(str(path))
        print(f"neurobento: {named}", file=sys.stderr)
        return 1
    args.output.mkdir(parents=True, exist_ok=True)
    for file_name, content in files.items():
        write_whole(args.output / file_name, content)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(args.output / f"{scan_name(path)}_dseg.nii.gz")
    return 0


def _here(args: argparse.Namespace) -> Parcellate:
    threads = len(os.sched_getaffinity(0)) if args.threads is None else args.threads
    limit_threads(threads)
    from neurobento.backends import open_backend
    from neurobento.backends.base import Backend
    from neurobento.parcellation import Parcellator
    from neurobento.registry import find_model
    from neurobento.report import backend_facts, output_files
    from neurobento.scan import read_scan, scan_name

    # opened for the first scan that could be read
    @functools.cache
    def backend() -> Backend:
        return open_backend(
            find_model(args.model, args.models),
            args.backend or "auto",
            device=args.device or "auto",
            precision=args.precision or "auto",
            threads=threads,
        )

    def parcellate(path: Path) -> tuple[dict[str, bytes], list[str]]:
        scan = read_scan(path)
        parcellator = Parcellator(backend())
        parcellation = parcellator.parcellate(scan, args.preprocessing, progress=_say)
        _say("write")
        facts = backend_facts(backend())
        return output_files(scan_name(path), scan, parcellation, facts), parcellation.warnings

    return parcellate


@contextmanager
def _at_service(args: argparse.Namespace) -> Iterator[Parcellate]:
    from neurobento.client import Client
    from neurobento.client.outputs import output_files_of
    from neurobento.scan import scan_name

    last = ""

    def say(stage: str, _: int | None) -> None:
        nonlocal last
        if stage not in (last, "done"):
            _say(stage)
        last = stage

    def parcellate(path: Path) -> tuple[dict[str, bytes], list[str]]:
        answer = client.parcellate(path, model=args.model, level=args.preprocessing)
        _say("write")
        return output_files_of(answer, scan_name(path), path), answer.warnings

    token = _token(args.token_file)
    with Client(args.url, token=token, timeout_s=args.timeout, progress=say) as client:
        yield parcellate


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("NEUROBENTO_TOKEN") or None
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


def _check_scans(paths: Sequence[Path]) -> None:
    """Refuse, before hours of work, scans that are missing or whose outputs are called the same."""
    from neurobento.scan import scan_name

    names: set[str] = set()
    for path in paths:
        path.stat()
        if scan_name(path) in names:
            raise ConfigError(
                subject=str(path),
                expected="scans of different names",
                found="one more of the same name",
                remedy="Give it another folder with -o, in a run of its own.",
            )
        names.add(scan_name(path))


def _say(stage: str) -> None:
    print(f"{stage.replace('_', ' ')} ...", file=sys.stderr, flush=True)


def _models(args: argparse.Namespace) -> int:
    from neurobento.registry import list_models

    print("name\tversion\tnetwork\ttest Dice\tsize MB")
    for model in list_models(args.models):
        spec = model.spec
        first = next(iter(spec.metrics.values()), None)
        shown = f"{first['mean']:.4f}" if first else "not measured"
        size = model.onnx.stat().st_size / 1e6
        print(f"{spec.name}\t{spec.version}\t{spec.network}\t{shown}\t{size:.1f}")
    return 0


def _sample(args: argparse.Namespace) -> int:
    from neurobento.sample import write_sample

    write_sample(args.file)
    print(f"{args.file}: use it with --preprocessing stripped")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
