"""The command `neurobento`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from neurobento.command import run
from neurobento.preprocessing.levels import LEVELS
from neurobento.preprocessing.threads import limit_threads
from neurobento.registry import DEFAULT_MODEL

__all__ = ["main"]


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
        help="parcellate a T1 scan",
        description="Writes NAME_dseg.nii.gz (native space), NAME_dseg.tsv, NAME_volumes.tsv, "
        "NAME_overlay.png and NAME_run.json.",
    )
    command.add_argument("scan", type=Path, help=".nii, .nii.gz or .mgz")
    command.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    command.add_argument("--model", default=DEFAULT_MODEL)
    command.add_argument("--models", type=Path, help="folder of models")
    command.add_argument(
        "--preprocessing",
        choices=LEVELS,
        default="full",
        help="full: a head with skull; stripped: the skull is gone; none: on the network grid",
    )
    command.add_argument(
        "--backend",
        default="auto",
        help="auto, tensorrt, tensorrt-rtx, openvino, onnxruntime, onnxruntime-tensorrt, pytorch "
        "or pytorch-compiled",
    )
    command.add_argument("--device", default="auto", help="auto, cpu or cuda")
    command.add_argument("--precision", default="auto")
    command.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    command.set_defaults(run=_parcellate)


def _parcellate(args: argparse.Namespace) -> int:
    limit_threads(args.threads)
    from neurobento.backends import open_backend
    from neurobento.parcellation import Parcellator
    from neurobento.registry import find_model
    from neurobento.report import backend_facts, output_files
    from neurobento.scan import read_scan, scan_name, write_whole

    scan = read_scan(args.scan)
    model = find_model(args.model, args.models)
    backend = open_backend(
        model,
        args.backend,
        device=args.device,
        precision=args.precision,
        threads=args.threads,
    )
    parcellation = Parcellator(backend).parcellate(scan, args.preprocessing, progress=_say)
    _say("write")
    args.output.mkdir(parents=True, exist_ok=True)
    name = scan_name(args.scan)
    for file_name, content in output_files(
        name, scan, parcellation, backend_facts(backend)
    ).items():
        write_whole(args.output / file_name, content)
    for warning in parcellation.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(args.output / f"{name}_dseg.nii.gz")
    return 0


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
