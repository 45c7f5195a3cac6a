"""How much preprocessing a scan needs, and how its progress is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

__all__ = ["PREPROCESSINGS", "Preprocessing", "Progress", "say_nothing"]

Preprocessing = Literal["full", "stripped", "none"]
"""`full`: all nine steps. `stripped`: the skull is gone already, steps 2 to 9.
`none`: the image is on the network grid already and is passed on as it is."""

PREPROCESSINGS: tuple[Preprocessing, ...] = get_args(Preprocessing)

Progress = Callable[[str], None]
"""Called with a stage's name when the stage begins."""


def say_nothing(_: str) -> None:
    """The progress of somebody who does not listen."""
