"""The command `neurobento`.

Environment: NEUROBENTO_TOKEN, the token of `parcellate --url`; a token given as
an argument would stand in the list of processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neurobento.cli.anomaly import add_anomaly_options, open_anomaly
from neurobento.cli.cohort import add_cohort_options, parcellate_cohort
from neurobento.cli.options import Work
from neurobento.cli.parcellate import add_parcellate_options, open_parcellate
from neurobento.command import run
from neurobento.errors import (
    ConfigError,
    DeadlineExceeded,
    NeuroBentoError,
    PreprocessingError,
    RequestRefused,
    ScanError,
)

if TYPE_CHECKING:
    from neurobento.spec import ModelSpec

__all__ = ["main"]

OF_ONE_FILE = (ScanError, PreprocessingError, RequestRefused, DeadlineExceeded)
"""Errors that do not keep the next file from being worked on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 1 an error that the message on stderr explains."""
    args = _parser().parse_args(argv)
    return run(lambda: args.run(args), "neurobento")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neurobento",
        description="Brain-MRI parcellation into the 116 AAL regions, and anomaly detection.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parcellate = commands.add_parser(
        "parcellate",
        help="parcellate T1 scans, here or through a service",
        description="Writes NAME_dseg.nii.gz (native space), NAME_dseg.tsv, NAME_volumes.tsv, "
        "NAME_overlay.png and NAME_run.json.",
    )
    add_parcellate_options(parcellate)
    parcellate.set_defaults(run=_work_on_files, open=open_parcellate, told="dseg.nii.gz")
    anomaly = commands.add_parser(
        "anomaly",
        help="say how little scans or slices look like a healthy head's, and where",
        description="Writes NAME_anomaly.json (score, threshold, verdict), the heat map as "
        "NAME_heatmap.nii.gz (native space) or, of a slice, NAME_heatmap.png, and "
        "NAME_overlay.png. For research; not a diagnosis.",
    )
    add_anomaly_options(anomaly)
    anomaly.set_defaults(run=_work_on_files, open=open_anomaly, told="anomaly.json")
    cohort = commands.add_parser(
        "cohort",
        help="parcellate many scans at once, on this machine or on a cluster",
        description="Writes the files of `parcellate` into a folder for each scan, and over all "
        "of them cohort.tsv (how each went) and volumes.tsv (scans by regions, mm3). What an "
        "earlier run finished is kept. Needs the extra `cohort`.",
    )
    add_cohort_options(cohort)
    cohort.set_defaults(run=_cohort)
    models = commands.add_parser("models", help="list the models")
    models.add_argument("--models", type=Path, help="folder of models")
    models.set_defaults(run=_models)
    sample = commands.add_parser("sample", help="write a T1 scan to try things on")
    sample.add_argument("file", type=Path, help="where to, .nii.gz")
    sample.set_defaults(run=_sample)
    return parser


def _work_on_files(args: argparse.Namespace) -> int:
    _check_files(args.file)
    with args.open(args, _say) as work:
        return max([_write(path, args, work) for path in args.file])


def _write(path: Path, args: argparse.Namespace, work: Work) -> int:
    """The status of one file, its outputs written."""
    from neurobento.files import write_atomically
    from neurobento.imaging.scan import scan_name

    if len(args.file) > 1:
        print(f"{path}:", file=sys.stderr, flush=True)
    try:
        files, warnings = work(path)
    except OF_ONE_FILE as error:
        named: NeuroBentoError = error if error.subject else error.about(str(path))
        print(f"neurobento: {named}", file=sys.stderr)
        return 1
    args.output.mkdir(parents=True, exist_ok=True)
    for file_name, content in files.items():
        write_atomically(args.output / file_name, content)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(args.output / f"{scan_name(path)}_{args.told}")
    return 0


def _check_files(paths: Sequence[Path]) -> None:
    """Refuse, before hours of work, files that are missing or whose outputs are called the same."""
    from neurobento.imaging.scan import scan_name

    names: set[str] = set()
    for path in paths:
        path.stat()
        if scan_name(path) in names:
            raise ConfigError(
                subject=str(path),
                expected="files of different names",
                found="one more of the same name",
                remedy="Give it another folder with -o, in a run of its own.",
            )
        names.add(scan_name(path))


def _cohort(args: argparse.Namespace) -> int:
    found = parcellate_cohort(args)
    told = ", ".join(f"{found[status]} {status}" for status in ("done", "kept", "failed"))
    print(told, file=sys.stderr)
    print(args.output / "cohort.tsv")
    return 1 if found["failed"] else 0


def _say(stage: str) -> None:
    print(f"{stage.replace('_', ' ')} ...", file=sys.stderr, flush=True)


def _models(args: argparse.Namespace) -> int:
    from neurobento.registry import list_models

    print("name\tversion\ttask\tnetwork\ttest\tsize MB")
    for model in list_models(args.models):
        spec = model.spec
        size = model.onnx.stat().st_size / 1e6
        row = (spec.name, spec.version, spec.task, spec.network, _measured(spec), f"{size:.1f}")
        print("\t".join(row))
    return 0


def _measured(spec: ModelSpec) -> str:
    """How good a model was found to be, in a word."""
    if spec.task == "anomaly":
        auroc = spec.metrics.get("test", {}).get("auroc")
        return f"AUROC {auroc['value']:.2f}" if auroc else "not measured"
    first = next(iter(spec.metrics.values()), None)
    return f"Dice {first['mean']:.4f}" if first else "not measured"


def _sample(args: argparse.Namespace) -> int:
    from neurobento.sample import write_sample

    write_sample(args.file)
    print(f"{args.file}: use it with --preprocessing stripped")
    return 0
