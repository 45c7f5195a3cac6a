"""The small published network's graph, an image, and its labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from tests.export.graph.small_graphs import run


@pytest.fixture(scope="module")
def small_graph(published: Any) -> Callable[[], Any]:
    """The small published network's graph, each time a new one."""
    return lambda: onnx.load(published.folder / "model.onnx")


@pytest.fixture(scope="module")
def smooth_image() -> Any:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (91, 122, 123)), indexing="ij")
    return np.exp(-(x**2) - y**2 - z**2).astype(np.float32)[None, None]


@pytest.fixture(scope="module")
def small_labels(small_graph: Callable[[], Any], smooth_image: Any) -> Any:
    return run(small_graph(), smooth_image)
