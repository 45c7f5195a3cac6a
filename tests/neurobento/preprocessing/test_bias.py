"""A known bias field is taken out of a head of three tissues."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neurobento.imaging.geometry import FINDER_SHAPE
from neurobento.preprocessing.bias import bias_corrected
from neurobento.preprocessing.brain import Brain, brain_of_stripped_scan

TISSUES = (30.0, 70.0, 110.0)


@pytest.fixture(scope="module")
def brain(phantom_on: Any) -> tuple[Any, Brain]:
    phantom = phantom_on("LAS", (3.0, 3.0, 3.0))
    return phantom, brain_of_stripped_scan(phantom.image, phantom.affine)


@pytest.fixture(scope="module")
def head(brain: tuple[Any, Brain]) -> np.ndarray:
    """Small patches of three tissues everywhere in the brain."""
    phantom, _ = brain
    x, y, z = np.indices(phantom.image.shape) // 3
    kinds = (x + 2 * y + 4 * z) % 3
    return np.where(phantom.image > 0, np.take(TISSUES, kinds), 0).astype(np.float32)


def field_of(shape: tuple[int, ...]) -> np.ndarray:
    """A field that rises by a half from one end of the head to the other, and bends."""
    x, y, _ = (np.linspace(-1, 1, n) for n in shape)
    return np.exp(0.25 * x[:, None, None] + 0.2 * (y**2)[None, :, None] * np.ones(shape))


def spread(image: np.ndarray, head: np.ndarray) -> float:
    """The coefficient of variation in white matter."""
    white = image[head == TISSUES[2]]
    return float(white.std() / white.mean())


def test_most_of_a_bias_field_is_taken_out(brain: tuple[Any, Brain], head: np.ndarray) -> None:
    phantom, found = brain
    biased = (head * field_of(head.shape)).astype(np.float32)
    corrected = bias_corrected(biased, phantom.affine, found)
    assert spread(corrected, head) < 0.4 * spread(biased, head)


def test_an_even_head_stays_as_it_is(brain: tuple[Any, Brain], head: np.ndarray) -> None:
    phantom, found = brain
    corrected = bias_corrected(head, phantom.affine, found)
    assert spread(corrected, head) < 0.02
    inside = head > 0
    assert corrected[inside].mean() == pytest.approx(head[inside].mean(), rel=0.02)


def test_nothing_happens_without_a_brain(phantom: Any) -> None:
    nothing = Brain(np.zeros(FINDER_SHAPE, np.uint8), np.diag([2.7, 2.7, 2.7, 1.0]))
    corrected = bias_corrected(phantom.image, phantom.affine, nothing)
    assert np.array_equal(corrected, phantom.image)
