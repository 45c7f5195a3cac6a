"""Write the two tables of a cohort as tab-separated text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from neurobento.cohort.scans import CohortScan
from neurobento.cohort.worker import Outcome
from neurobento.labels import aal116

__all__ = ["Row", "cohort_tsv", "volumes_table_tsv"]

# BIDS writes missing values so
UNKNOWN = "n/a"


@dataclass(frozen=True)
class Row:
    """A scan and its outcome."""

    scan: CohortScan
    outcome: Outcome
    # Above 1 if a worker died with the scan
    attempts: int


def cohort_tsv(rows: Sequence[Row]) -> str:
    """Return the table of outcomes, one line a scan; paths are relative to the cohort's folder."""
    header = ["participant_id", "session_id", "scan", "status", "seconds", "cpu_seconds"]
    header += ["attempts", "volumes", "error_type", "error"]
    return _tsv(header, map(_outcome_cells, rows))


def _outcome_cells(row: Row) -> list[str]:
    outcome, scan = row.outcome, row.scan
    volumes = f"{scan.subfolder}/{scan.name}_volumes.tsv" if outcome.volumes_mm3 else UNKNOWN
    return [
        *_scan_cells(scan),
        outcome.status,
        f"{outcome.seconds:.2f}",
        f"{outcome.cpu_seconds:.2f}",
        str(row.attempts),
        volumes,
        outcome.error_type or UNKNOWN,
        outcome.error or UNKNOWN,
    ]


def volumes_table_tsv(rows: Sequence[Row]) -> str:
    """Return the table of scans by regions in mm3, without the scans that failed."""
    header = ["participant_id", "session_id", "scan", *(region.name for region in aal116())]
    measured = (row for row in rows if row.outcome.volumes_mm3)
    return _tsv(header, ([*_scan_cells(row.scan), *row.outcome.volumes_mm3] for row in measured))


def _scan_cells(scan: CohortScan) -> list[str]:
    return [scan.participant or UNKNOWN, scan.session or UNKNOWN, str(scan.subfolder)]


def _tsv(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    # file names and messages may hold tabs and line breaks
    clean = ("\t".join(" ".join(cell.split()) for cell in cells) for cells in [header, *lines])
    return "\n".join(clean) + "\n"
