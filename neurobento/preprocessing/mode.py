"""The kinds of preprocessing, and callbacks for its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

__all__ = ["PREPROCESSINGS", "Preprocessing", "Progress", "ignore_progress"]

Preprocessing = Literal["full", "stripped", "none", "report_a"]
"""`full`: for a head with skull. `stripped`: for a scan without skull. `none`: no steps, for an
image that is on the network grid already. `report_a`: as `full`, but only by report A's nine steps,
with ROBEX: models that were trained on other images refuse it."""

PREPROCESSINGS: tuple[Preprocessing, ...] = get_args(Preprocessing)

Progress = Callable[[str], None]
"""Called with a stage's name when the stage begins."""


def ignore_progress(_: str) -> None:
    """Ignore the progress."""
