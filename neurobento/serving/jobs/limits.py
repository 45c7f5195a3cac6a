"""Limits of the jobs in a database."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["JobLimits"]


@dataclass(frozen=True)
class JobLimits:
    """Limits of waiting jobs and of the time that things are kept."""

    max_waiting: int
    """More jobs are refused."""
    keep_s: float
    """Ended jobs and their results are kept so long."""
    longest_s: float
    """No step takes longer: what is older and belongs to no job was left by a killed server."""
