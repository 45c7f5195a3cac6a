"""The command `neurobento cohort`: parcellate many scans, on this machine or on a cluster."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from neurobento.cli.each_file import require_writable
from neurobento.cli.options import (
    Commands,
    add_file_options,
    add_model_options,
    add_preprocessing_option,
)
from neurobento.cores import workers_for
from neurobento.errors import ConfigError
from neurobento.preprocessing.mode import PREPROCESSINGS
from neurobento.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from neurobento.cohort import CohortOptions

__all__ = ["add_cohort_command"]


def add_cohort_command(commands: Commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "cohort",
        help="parcellate many scans at once, on this machine or on a cluster",
        description="Parcellate many scans. Writes the files of `neurobento parcellate` into a "
        "folder for each scan, and two tables: cohort.tsv (the status of each scan) and "
        "volumes.tsv (scans by regions, mm3). Scans that an earlier run finished are not "
        "repeated. Needs the extra `cohort`.",
    )
    command.set_defaults(run=_run)
    add_file_options(
        command, "SCAN_OR_FOLDER", "scans, and folders that hold scans at any depth", DEFAULT_MODEL
    )
    add_preprocessing_option(command)
    # the option's name in earlier versions
    command.add_argument(
        "--level", dest="preprocessing", choices=PREPROCESSINGS, help=argparse.SUPPRESS
    )
    command.add_argument(
        "--workers",
        type=int,
        metavar="COUNT",
        help="worker processes on this machine; default: cores / threads, as far as memory goes",
    )
    command.add_argument(
        "--scheduler",
        metavar="tcp://HOST:PORT",
        help="use the workers of this Dask scheduler; they must see the same paths",
    )
    add_model_options(command, "1 for each worker")


def _run(args: argparse.Namespace) -> int:
    from neurobento.cohort.cluster import require_dask

    require_dask()
    threads = _at_least_one("threads", 1 if args.threads is None else args.threads)
    workers = _worker_count(args, threads)
    from neurobento.cohort import find_scans, run_cohort

    scans = find_scans(args.file, args.output)
    require_writable(args.output)
    options = _cohort_options(args, threads)
    rows = run_cohort(scans, args.output, options, workers=workers, scheduler=args.scheduler)
    counts = Counter(row.outcome.status for row in rows)
    summary = ", ".join(f"{counts[status]} {status}" for status in ("done", "kept", "failed"))
    print(summary, file=sys.stderr)
    print(args.output / "cohort.tsv")
    return 1 if counts["failed"] else 0


def _cohort_options(args: argparse.Namespace, threads: int) -> CohortOptions:
    from neurobento.cohort import CohortOptions
    from neurobento.cohort.worker import model_sha256
    from neurobento.default_models import BRAIN_MODEL
    from neurobento.registry import find_model
    from neurobento.spec import REPORT_A_VERSION, require_task

    model = find_model(args.model, args.models)
    require_task(model.spec, "parcellation")
    precision = args.precision or "auto"
    version = model.spec.preprocessing_version
    finds_brain = args.preprocessing in ("full", "stripped") and version != REPORT_A_VERSION
    return CohortOptions(
        preprocessing=args.preprocessing,
        model=args.model,
        preprocessing_version=version,
        model_sha256=model_sha256(model, precision),
        finder_sha256=find_model(BRAIN_MODEL).spec.onnx_sha256 if finds_brain else "",
        models=str(Path(args.models).resolve()) if args.models else None,
        backend=args.backend or "auto",
        device=args.device or "auto",
        precision=precision,
        threads=threads,
    )


def _worker_count(args: argparse.Namespace, threads: int) -> int:
    if args.workers is None:
        return workers_for(threads)
    if args.scheduler is not None:
        raise ConfigError(
            subject="--workers",
            expected="no --scheduler beside it, because a scheduler has its own workers",
            found=f"--scheduler {args.scheduler}",
            remedy="Leave out --workers or --scheduler.",
        )
    return _at_least_one("workers", args.workers)


def _at_least_one(option: str, value: int) -> int:
    if value < 1:
        raise ConfigError(
            subject=f"--{option}",
            expected="at least 1",
            found=str(value),
            remedy="Choose a larger number, or leave the option out.",
        )
    return value
