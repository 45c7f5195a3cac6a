"""All scans of a cohort, and the two tables over them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neurobento.cohort.cluster import map_on_cluster, open_cluster, require_dask, scratch_folder
from neurobento.cohort.scans import CohortScan
from neurobento.cohort.tables import Row, cohort_tsv, volumes_table_tsv
from neurobento.cohort.worker import CohortOptions, Outcome, parcellate_scan
from neurobento.errors import NeuroBentoError, WorkerLost
from neurobento.files import write_atomically

if TYPE_CHECKING:
    from neurobento.cohort.cluster import ItemResult

__all__ = ["COHORT_FILE", "VOLUMES_FILE", "run_cohort"]

COHORT_FILE, VOLUMES_FILE = "cohort.tsv", "volumes.tsv"


def run_cohort(
    scans: Sequence[CohortScan],
    output: Path,
    options: CohortOptions,
    *,
    workers: int,
    scheduler: str | None = None,
) -> list[Row]:
    """What became of every scan, in their order; the tables are written in any case.

    Parameters
    ----------
    scans
        Of `find_scans`.
    output
        Where to; made if it is not there.
    options
        What is done with every scan.
    workers
        Processes on this machine; ignored with a scheduler.
    scheduler
        Address of an existing Dask scheduler, whose workers see the same paths.

    Raises
    ------
    ConfigError
        The extra `cohort` is missing.
    ModelError
        The model cannot be run on a worker.
    """
    require_dask()
    from tqdm import tqdm

    rows: dict[int, Row] = {}
    output = output.resolve()
    with scratch_folder(output) as scratch:
        work = functools.partial(parcellate_scan, output=output, parts=scratch, options=options)
        marks = scratch / "marks"
        marks.mkdir()
        try:
            with (
                open_cluster(workers, scheduler) as client,
                tqdm(total=len(scans), unit="scan", smoothing=0) as bar,
            ):
                for done in map_on_cluster(client, work, scans, marks):
                    rows[done.index] = row = _row(scans[done.index], done)
                    bar.set_postfix_str(f"{row.scan.name} {row.outcome.status}", refresh=False)
                    bar.update()
        finally:
            _write_tables(output, [rows[index] for index in sorted(rows)])
    return [rows[index] for index in sorted(rows)]


def _row(scan: CohortScan, done: ItemResult[Outcome]) -> Row:
    outcome = done.result
    if isinstance(outcome, WorkerLost):
        outcome = Outcome("failed", error_type="WorkerLost", error=outcome.message)
    if isinstance(outcome, NeuroBentoError):
        raise outcome
    return Row(scan, outcome, done.attempts)


def _write_tables(output: Path, rows: Sequence[Row]) -> None:
    write_atomically(output / COHORT_FILE, cohort_tsv(rows).encode())
    write_atomically(output / VOLUMES_FILE, volumes_table_tsv(rows).encode())
