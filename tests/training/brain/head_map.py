"""A head of shells: brain in fluid, skull and skin, with a brainstem and a neck below it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from training.brain.head_maps import HeadMap

SHAPE = (168, 200, 190)
CENTRE = (84, 104, 112)

SKIN, SKULL, FLUID, CORTEX, WHITE, VENTRICLE, THALAMUS, BRAINSTEM = 211, 215, 24, 3, 2, 4, 10, 16
SHELLS = (
    (SKIN, (78, 92, 76)),
    (SKULL, (74, 88, 72)),
    (FLUID, (68, 82, 66)),
    (CORTEX, (64, 78, 62)),
    (WHITE, (50, 62, 48)),
    (THALAMUS, (18, 22, 14)),
    (VENTRICLE, (8, 14, 8)),
)
"""Value and radii in mm, from the outside in."""


@functools.cache
def map_values() -> Any:
    """(X, Y, Z) uint8, RAS, 1 mm; the fluid goes on below the brainstem."""
    index = np.indices(SHAPE, sparse=True)
    x, y, z = (along - c for along, c in zip(index, CENTRE, strict=True))
    values = np.zeros(SHAPE, np.uint8)
    values[(np.hypot(x, y) < 55) & (z < 0)] = SKIN
    for value, (a, b, c) in SHELLS:
        values[(x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1] = value
    values[(np.hypot(x, y) < 12) & (z < -40)] = FLUID
    values[(np.hypot(x, y) < 9) & (z < -40) & (z > -80)] = BRAINSTEM
    values.setflags(write=False)
    return values


def head_map(name: str = "shells") -> HeadMap:
    return HeadMap(name, torch.from_numpy(map_values().copy()))
