"""The command `neurobento cohort`."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path

from neurobento.cli.options import add_file_options, add_model_options
from neurobento.errors import ConfigError
from neurobento.preprocessing.mode import PREPROCESSINGS
from neurobento.registry import DEFAULT_MODEL

__all__ = ["add_cohort_options", "parcellate_cohort"]


def add_cohort_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_file_options(
        command, "SCAN_OR_FOLDER", "scans, and folders of them at any depth", DEFAULT_MODEL
    )
    command.add_argument(
        "--preprocessing",
        "--level",
        choices=PREPROCESSINGS,
        default="full",
        help="full: heads with skull; stripped: the skull is gone; none: on the network grid",
    )
    command.add_argument(
        "--workers", type=int, help="processes on this machine; default: cores / threads"
    )
    command.add_argument(
        "--scheduler",
        metavar="tcp://HOST:PORT",
        help="an existing Dask scheduler in their place; its workers see the same paths",
    )
    add_model_options(command)


def parcellate_cohort(args: argparse.Namespace) -> Counter[str]:
    """How many scans were done, kept and failed.

    Raises
    ------
    ConfigError
        The extra `cohort` is missing, an option is wrong, or there are no scans.
    ModelError
        The model cannot be used.
    """
    from neurobento.cohort.cluster import require_extra

    require_extra()
    threads = _at_least_one("threads", 1 if args.threads is None else args.threads)
    workers = _workers(args, threads)
    from neurobento.cohort import CohortOptions, find_scans, run_cohort
    from neurobento.cohort.worker import model_sha256
    from neurobento.registry import find_model
    from neurobento.spec import require_task

    scans = find_scans(args.file, args.output)
    model = find_model(args.model, args.models)
    require_task(model.spec, "parcellation")
    precision = args.precision or "auto"
    options = CohortOptions(
        preprocessing=args.preprocessing,
        model=args.model,
        model_sha256=model_sha256(model, precision),
        models=str(Path(args.models).resolve()) if args.models else None,
        backend=args.backend or "auto",
        device=args.device or "auto",
        precision=precision,
        threads=threads,
    )
    rows = run_cohort(scans, args.output, options, workers=workers, scheduler=args.scheduler)
    return Counter(row.outcome.status for row in rows)


def _workers(args: argparse.Namespace, threads: int) -> int:
    if args.workers is None:
        return max(1, len(os.sched_getaffinity(0)) // threads)
    if args.scheduler is not None:
        raise ConfigError(
            subject="--workers",
            expected="no --scheduler beside it: its workers do the work",
            found="one",
            remedy="Leave one out.",
        )
    return _at_least_one("workers", args.workers)


def _at_least_one(option: str, value: int) -> int:
    if value < 1:
        raise ConfigError(
            subject=f"--{option}",
            expected="at least 1",
            found=str(value),
            remedy="Give another number, or leave it out.",
        )
    return value
