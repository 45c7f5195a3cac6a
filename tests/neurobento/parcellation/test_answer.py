"""Labels on a scan's grid from what a network answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.backends import open_backend
from neurobento.errors import UnusableAnswer
from neurobento.imaging.geometry import NETWORK_SHAPE, Grid
from neurobento.parcellation.answer import Answer
from neurobento.preprocessing.brain import Brain
from neurobento.registry import find_model

NETWORK = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.1]), [-68.0, -90.0, -60.0])
NATIVE = nib.affines.from_matvec(np.diag([-1.0, 1.0, 1.0]), [70.0, -95.0, -64.0])
NATIVE_SHAPE = (140, 160, 142)


@pytest.fixture(scope="module")
def answered() -> Any:
    """What the default model answers to an ellipsoid of noise: the labels and the positions."""
    x, y, z = (np.linspace(-1, 1, n).reshape(s) for n, s in zip(NETWORK_SHAPE, SIDES, strict=True))
    inside = x**2 + y**2 + z**2 < 0.9
    noise = np.random.default_rng(0).random(NETWORK_SHAPE, np.float32)
    backend = open_backend(find_model("regions"))
    outputs = backend.run((noise * inside).astype(np.float32)[None, None])
    return outputs["labels"][0], outputs["positions"][0], backend.atlas


SIDES = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))


def test_labels_are_restored_by_a_vote(known_labels: Callable[[int], Any]) -> None:
    labels = known_labels(3)
    found = Answer(labels, NETWORK).labels_on(NATIVE, NATIVE_SHAPE)
    assert np.array_equal(found, Grid(NATIVE_SHAPE, NATIVE, NETWORK).restore(labels))
    assert np.array_equal(Answer(labels, NETWORK).labels_on(NETWORK, NETWORK_SHAPE), labels)


def test_positions_give_the_labels_of_the_graph_on_the_network_grid(answered: Any) -> None:
    labels, positions, atlas = answered
    found = Answer(positions, NETWORK, atlas).labels_on(NETWORK, NETWORK_SHAPE)
    assert len(np.unique(labels)) > 100
    assert (found == labels)[labels > 0].mean() > 0.99


def test_no_region_lies_far_from_the_brain(answered: Any) -> None:
    _, positions, atlas = answered
    share = np.zeros((60, 60, 60), np.uint8)
    share[:30] = 255
    grid = nib.affines.from_matvec(np.diag([2.7] * 3), [-81.0, -95.0, -70.0])
    whole = Answer(positions, NETWORK, atlas).labels_on(NATIVE, NATIVE_SHAPE)
    cut = Answer(positions, NETWORK, atlas, Brain(share, grid)).labels_on(NATIVE, NATIVE_SHAPE)
    # the brain's last voxel is 29; with one more around it, labels end half a voxel after 30
    at_mm = 70.0 - np.arange(140)
    index = np.moveaxis(np.indices(NATIVE_SHAPE), 0, -1)
    at = nib.affines.apply_affine(np.linalg.inv(NETWORK) @ NATIVE, index)
    seen = ((at > 2) & (at < np.array(NETWORK_SHAPE) - 3)).all(axis=-1)
    seen[at_mm > -1] = False
    assert np.array_equal(cut[seen], whole[seen])
    assert whole[at_mm > 3].any()
    assert not cut[at_mm > 3].any()


def test_without_a_mask_no_region_lies_outside_of_the_network_grid(answered: Any) -> None:
    _, positions, atlas = answered
    # a native grid with 30 mm around the network grid
    around = nib.affines.from_matvec(np.diag([1.5, 1.5, 1.5]), [-98.0, -120.0, -90.0])
    labels = Answer(positions, NETWORK, atlas).labels_on(around, (131, 142, 131))
    index = np.moveaxis(np.indices(labels.shape), 0, -1)
    at = nib.affines.apply_affine(np.linalg.inv(NETWORK) @ around, index)
    outside = ((at < -2.5) | (at > np.array(NETWORK_SHAPE) + 1.5)).any(axis=-1)
    assert labels.any()
    assert not labels[outside].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_positions_that_are_none_are_an_error(answered: Any, value: float) -> None:
    _, positions, atlas = answered
    broken = positions.copy()
    broken[1, 3, 4, 5] = value
    with pytest.raises(UnusableAnswer, match=r"1 numbers? that are not.*--precision fp32"):
        Answer(broken, NETWORK, atlas).labels_on(NATIVE, NATIVE_SHAPE)
    with pytest.raises(UnusableAnswer, match="shape"):
        Answer(positions[:, :-1], NETWORK, atlas).labels_on(NATIVE, NATIVE_SHAPE)


def test_labels_do_not_depend_on_the_size_of_a_network_voxel(answered: Any) -> None:
    _, positions, atlas = answered
    with_affine, without = (
        Answer(positions, affine, atlas).labels_on(affine, NETWORK_SHAPE)
        for affine in (NETWORK, np.eye(4))
    )
    assert (with_affine == without).mean() > 0.9999
