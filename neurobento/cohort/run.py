"""Parcellate all scans of a cohort and write the tables."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurobento.cohort.cluster import map_on_cluster, open_cluster, require_dask, scratch_folder
from neurobento.cohort.scans import CohortScan
from neurobento.cohort.tables import Row, cohort_tsv, volumes_table_tsv
from neurobento.cohort.worker import CohortOptions, Outcome, parcellate_scan
from neurobento.errors import NeuroBentoError, WorkerLost
from neurobento.files import hold_folder, write_atomically

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
    """Parcellate scans in parallel; return a row for each, in order. Tables outlive an error.

    Raise ConfigError if another run is at work in the output folder.
    """
    require_dask()
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    rows: dict[int, Row] = {}
    remedy = "Wait until the other run ends, or choose another output folder."
    with hold_folder(output, remedy), scratch_folder(output) as scratch:
        try:
            with open_cluster(workers, scheduler) as client:
                for index, row in _parcellate_all(client, scans, output, scratch, options):
                    rows[index] = row
        finally:
            in_order = [rows[index] for index in sorted(rows)]
            write_atomically(output / COHORT_FILE, cohort_tsv(in_order).encode())
            write_atomically(output / VOLUMES_FILE, volumes_table_tsv(in_order).encode())
    return in_order


def _parcellate_all(
    client: Any, scans: Sequence[CohortScan], output: Path, scratch: Path, options: CohortOptions
) -> Iterator[tuple[int, Row]]:
    """Yield the index and the row of each scan as it ends, and move the progress bar."""
    from tqdm import tqdm

    attempts = scratch / "attempts"
    attempts.mkdir()
    parcellate = functools.partial(parcellate_scan, output=output, staging=scratch, options=options)
    with tqdm(total=len(scans), unit="scan", smoothing=0) as bar:
        for result in map_on_cluster(client, parcellate, scans, attempts):
            row = _row(scans[result.index], result)
            yield result.index, row
            bar.set_postfix_str(f"{row.scan.name} {row.outcome.status}", refresh=False)
            bar.update()


def _row(scan: CohortScan, result: ItemResult[Outcome]) -> Row:
    outcome = result.value
    if isinstance(outcome, WorkerLost):
        outcome = Outcome("failed", error_type="WorkerLost", error=outcome.message)
    if isinstance(outcome, NeuroBentoError):
        raise outcome
    return Row(scan, outcome, result.attempts)
