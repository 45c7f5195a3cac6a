"""Parcellate many scans through Dask, skip those already done, and write tables of all."""

from neurobento.cohort.run import run_cohort
from neurobento.cohort.scans import CohortScan, find_scans
from neurobento.cohort.tables import Row
from neurobento.cohort.worker import CohortOptions, Outcome

__all__ = ["CohortOptions", "CohortScan", "Outcome", "Row", "find_scans", "run_cohort"]
