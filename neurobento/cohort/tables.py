"""The two tables over a cohort, tab-separated; what is not known is BIDS's "n/a"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from neurobento.cohort.scans import CohortScan
from neurobento.cohort.worker import Outcome
from neurobento.labels import aal116

__all__ = ["Row", "cohort_tsv", "volumes_table_tsv"]

UNKNOWN = "n/a"


@dataclass(frozen=True)
class Row:
    """A scan and what became of it.

    Attributes
    ----------
    scan, outcome
        Which, and what.
    attempts
        How often it was begun; above 1 where a worker died with it.
    """

    scan: CohortScan
    outcome: Outcome
    attempts: int


def cohort_tsv(rows: Sequence[Row]) -> str:
    """One line a scan: how it went and where its volumes are, below the cohort's folder."""
    head = ["participant_id", "session_id", "scan", "status", "seconds", "cpu_seconds"]
    return _table([*head, "attempts", "volumes", "error_type", "error"], map(_line, rows))


def _line(row: Row) -> list[str]:
    outcome, scan = row.outcome, row.scan
    volumes = f"{scan.place}/{scan.name}_volumes.tsv" if outcome.volumes_mm3 else UNKNOWN
    return [
        *_whose(row),
        outcome.status,
        f"{outcome.seconds:.2f}",
        f"{outcome.cpu_seconds:.2f}",
        str(row.attempts),
        volumes,
        outcome.error_type or UNKNOWN,
        outcome.error or UNKNOWN,
    ]


def volumes_table_tsv(rows: Sequence[Row]) -> str:
    """Scans by regions, in mm3; scans that failed have no line."""
    head = ["participant_id", "session_id", "scan", *(region.name for region in aal116())]
    measured = (row for row in rows if row.outcome.volumes_mm3)
    return _table(head, ([*_whose(row), *row.outcome.volumes_mm3] for row in measured))


def _whose(row: Row) -> list[str]:
    scan = row.scan
    return [scan.participant or UNKNOWN, scan.session or UNKNOWN, str(scan.place)]


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    # file names and messages may hold tabs and line ends
    clean = ("\t".join(" ".join(cell.split()) for cell in cells) for cells in [head, *lines])
    return "\n".join(clean) + "\n"
