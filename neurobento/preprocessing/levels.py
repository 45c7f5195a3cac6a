"""How much preprocessing a scan needs."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["LEVELS", "Level"]

Level = Literal["full", "stripped", "none"]
"""`full`: all nine steps. `stripped`: the skull is gone already, steps 2 to 9.
`none`: the image is on the network grid already and is passed on as it is."""

LEVELS: tuple[Level, ...] = get_args(Level)
