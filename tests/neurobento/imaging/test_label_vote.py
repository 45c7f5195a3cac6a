"""Labels carried by a vote, against the largest share of all labels' own interpolations."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

from neurobento.imaging import label_vote
from neurobento.imaging.label_vote import vote

SHAPE = (13, 11, 12)
TILT = nib.eulerangles.euler2mat(0.3, -0.2, 0.25)
AFFINES = {
    "finer": from_matvec(np.diag([0.45, 0.6, 0.55]), [0.13, -1.2, 0.31]),
    "coarser": from_matvec(np.diag([1.7, 1.3, 1.4]), [-2.2, -1.1, 0.3]),
    "flipped": from_matvec(np.diag([-0.61, 0.73, -0.79]), [12.93, -0.84, 11.37]),
    "permuted": from_matvec(
        np.array([[0, 0.52, 0], [0, 0, -0.61], [0.73, 0, 0]]), [-1.05, 10.7, -0.4]
    ),
    "tilted": from_matvec(TILT * 0.6, [-0.7, 1.3, -1.9]),
    "tilted and coarser": from_matvec(TILT * [1.2, 1.5, 1.1], [-2.1, 1.4, -1.6]),
    "tilted, flipped and permuted": from_matvec(
        TILT @ np.array([[0, 0.7, 0], [0, 0, -0.8], [0.6, 0, 0]]), [-1.2, 11.0, -1.3]
    ),
}
TARGET_SHAPE = (24, 21, 19)


@pytest.fixture
def labels() -> Any:
    """Regions of a few voxels with noise in them."""
    random = np.random.default_rng(0)
    blocks = random.integers(0, 6, (5, 4, 4), dtype=np.uint8)
    whole = blocks.repeat(3, 0).repeat(3, 1).repeat(3, 2)[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    noise = random.integers(0, 6, SHAPE, dtype=np.uint8)
    return np.where(random.random(SHAPE) < 0.1, noise, whole).astype(np.uint8)


def places(affine: Any) -> Any:
    return apply_affine(affine, np.moveaxis(np.indices(TARGET_SHAPE), 0, -1))


def shares(labels: Any, affine: Any) -> Any:
    """The trilinear share of each label at every place, background around the source."""
    at = np.moveaxis(places(affine), -1, 0)
    return np.stack(
        [
            ndimage.map_coordinates(
                (np.pad(labels, 3) == label).astype(np.float64), at + 3, order=1, cval=label == 0
            )
            for label in range(6)
        ]
    )


@pytest.mark.parametrize("name", AFFINES)
def test_the_largest_trilinear_share_wins(name: str, labels: Any) -> None:
    affine = AFFINES[name]
    found = vote(labels, affine, TARGET_SHAPE)
    assert (found.shape, found.dtype) == (TARGET_SHAPE, np.uint8)
    at = places(affine)
    inside = ((at >= -0.5) & (at < np.array(SHAPE) - 0.5)).all(axis=-1)
    assert 400 < inside.sum() < inside.size
    each = shares(labels, affine)
    first, second = np.sort(each, axis=0)[:-3:-1]
    # two labels that share a place alike may win either way
    clear = inside & (first - second > 1e-5)
    assert clear.sum() > 0.95 * inside.sum()
    assert np.array_equal(found[clear], each.argmax(axis=0)[clear])
    assert not found[~inside].any()


@pytest.mark.parametrize("name", AFFINES)
def test_where_all_eight_agree_it_is_the_nearest(name: str, labels: Any) -> None:
    affine = AFFINES[name]
    found = vote(labels, affine, TARGET_SHAPE)
    agreed = shares(labels, affine).max(axis=0) > 1 - 1e-9
    nearest = ndimage.affine_transform(
        labels, affine[:3, :3], affine[:3, 3], TARGET_SHAPE, order=0, mode="grid-constant"
    )
    assert (agreed & (nearest > 0)).sum() > 50
    assert np.array_equal(found[agreed], nearest[agreed])


@pytest.mark.parametrize("name", ["finer", "tilted"])
def test_small_chunks_give_the_same(
    name: str, labels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = vote(labels, AFFINES[name], TARGET_SHAPE)
    monkeypatch.setattr(label_vote, "CHUNK_VOXELS", 37)
    assert np.array_equal(vote(labels, AFFINES[name], TARGET_SHAPE), expected)


def test_a_slanted_border_is_smoother_than_by_nearest_neighbour() -> None:
    """A half space cut across the voxels' diagonal, on voxels of a quarter of the size."""
    x, y, _ = np.indices((12, 12, 12))
    labels = (x + 0.6 * y > 9).astype(np.uint8)
    affine = from_matvec(np.eye(3) / 4, [2.0, 2.0, 2.0])
    shape = (32, 32, 32)
    at = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    truth = at[..., 0] + 0.6 * at[..., 1] > 9.3
    nearest = ndimage.affine_transform(labels, affine[:3, :3], affine[:3, 3], shape, order=0)
    wrong = (vote(labels, affine, shape) != truth).mean()
    assert wrong < 0.75 * (nearest != truth).mean()


def test_all_of_one_label_stays_and_what_is_beyond_is_background() -> None:
    affine = from_matvec(np.eye(3), [-3.0, -3.0, -3.0])
    found = vote(np.full((5, 6, 7), 255, np.uint8), affine, (11, 12, 13))
    expected = np.zeros((11, 12, 13), np.uint8)
    expected[3:8, 3:9, 3:10] = 255
    assert np.array_equal(found, expected)


def test_the_labels_are_not_modified(labels: Any) -> None:
    before = labels.copy()
    labels.setflags(write=False)
    vote(labels, AFFINES["tilted"], TARGET_SHAPE)[:] = 9
    assert np.array_equal(labels, before)
