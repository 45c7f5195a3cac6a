"""Jobs: their states, and the keys that make submitting one again safe."""

from __future__ import annotations

import re

__all__ = ["IDEMPOTENCY_KEY", "JOB_STATES"]

IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
"""Visible ASCII, as a header can carry it."""

JOB_STATES = frozenset({"waiting", "running", "done", "failed", "cancelled"})
