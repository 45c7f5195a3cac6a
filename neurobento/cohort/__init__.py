"""Many scans at once: parcellated through Dask, resumable, with tables over all of them.

`scans.py` says which scans and where each one's files go, `work.py` does one of
them, `run.py` all, and `tables.py` makes the two tables.
"""

from neurobento.cohort.run import run_cohort
from neurobento.cohort.scans import CohortScan, find_scans
from neurobento.cohort.tables import Row
from neurobento.cohort.worker import CohortOptions, Outcome

__all__ = ["CohortOptions", "CohortScan", "Outcome", "Row", "find_scans", "run_cohort"]
