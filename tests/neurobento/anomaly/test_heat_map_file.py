"""A heat map as a PNG of 16-bit grey."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neurobento.anomaly.detector import SliceAnomaly
from neurobento.anomaly.fit import fit_slice
from neurobento.anomaly.heat_map_file import heat_map_png
from neurobento.anomaly.outputs import slice_facts


def stored(heat_map: Any) -> tuple[Any, float]:
    """Return the levels of a heat map's PNG, and the value of one in the facts beside it."""
    anomaly = SliceAnomaly(0.5, 0.3, heat_map, fit_slice(np.eye(40, dtype=np.float32)))
    scale = slice_facts(heat_map, anomaly, {}, {})["heat_map"]["value_per_level"]
    return np.asarray(Image.open(io.BytesIO(heat_map_png(heat_map)))), scale


def test_a_heat_map_of_any_size_fills_the_levels_and_one_of_zeros_is_black() -> None:
    for largest in (1e-30, 1e-6, 3.0, 1e30):
        heat = np.linspace(0, largest, 2000, dtype=np.float32).reshape(40, 50)
        levels, value_per_level = stored(heat)
        assert levels.max() == 65535
        assert levels * value_per_level == pytest.approx(heat, abs=largest / 65535)
    levels, value_per_level = stored(np.zeros((40, 50), np.float32))
    assert not levels.any()
    assert value_per_level == 1
