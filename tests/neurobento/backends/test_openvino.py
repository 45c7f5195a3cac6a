"""A scan's labels do not depend on what came in its batch, to the voxel."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobento.backends import open_backend
from neurobento.registry import open_model

NETWORK = (91, 122, 123)
ROOT = Path(__file__).resolve().parents[3]
THREADS = min(2, len(os.sched_getaffinity(0)))

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)


@pytest.fixture(scope="module")
def compact() -> Iterator[Any]:
    """The shipped model as the service runs it, on more than one thread where there are two."""
    model = open_model(ROOT / "models" / "compact")
    opened = open_backend(model, "openvino", device="cpu", precision="fp32", threads=THREADS)
    yield opened
    opened.close()


def blob(seed: int) -> Any:
    """(1, 91, 122, 123) in [0, 1]: an egg of smooth tissue off the centre, zero around it."""
    random = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in NETWORK), indexing="ij")
    centre, radii = random.uniform(-0.1, 0.1, 3), random.uniform(0.6, 0.9, 3)
    far = sum(((x - c) / r) ** 2 for x, c, r in zip(grid, centre, radii, strict=True))
    tissue = 0.5 + 0.1 * sum(np.cos(x * random.uniform(3, 9)) for x in grid)
    return np.where(far < 1, tissue, 0).astype(np.float32)[None]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_shipped_model_gives_in_a_batch_what_it_gives_alone(compact: Any, count: int) -> None:
    images = np.stack([blob(seed) for seed in range(count)])
    singles = np.concatenate([compact.infer(image[None]) for image in images])
    assert np.array_equal(compact.infer(images), singles)
    assert all(len(np.unique(found)) > 10 for found in singles)
    assert not np.array_equal(singles[0], singles[1])
