"""Labels of an atlas on a scan's grid, through a map that is known for blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.imaging.atlas import Atlas, AtlasMap, Mask

SHAPE = (40, 44, 36)
ATLAS_TO_RAS = nib.affines.from_matvec(np.diag([-1.5, 1.5, 1.5]), [30.0, -33.0, -27.0])
BLOCK_TO_RAS = nib.affines.from_matvec(np.diag([5.0, 6.0, 5.0]), [-27.0, -35.0, -22.0])
BLOCKS = (12, 12, 11)
# from the scan's world into the atlas's
TO_ATLAS = nib.affines.from_matvec(
    [[1.05, 0.03, 0.0], [-0.02, 0.95, 0.04], [0.0, 0.05, 1.1]], [2.0, -1.0, 1.5]
)
GRIDS = {
    "straight": nib.affines.from_matvec(np.diag([1.0, 1.0, 1.0]), [-30.0, -32.0, -28.0]),
    "flipped": nib.affines.from_matvec([[0, 0, 1.2], [-0.9, 0, 0], [0, 3.0, 0]], [-35, 30, -30]),
    "tilted": nib.affines.from_matvec(
        nib.eulerangles.euler2mat(0.2, -0.3, 0.5) * 1.1, [-12.0, -45.0, -30.0]
    ),
}
GRID_SHAPE = (60, 64, 58)


def places_of(voxel_to_ras: Any, shape: Any) -> Any:
    """Return the world places of all voxels, (3, V)."""
    index = np.indices(shape).reshape(3, -1)
    return voxel_to_ras[:3, :3] @ index + voxel_to_ras[:3, 3:]


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    """Three boxes of labels, one inside of another, off the middle."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:-6, 5:-4, 4:-5] = 3
    labels[6:18, 8:-8, 8:-8] = 7
    labels[20:30, 12:20, 10:24] = 116
    return Atlas(labels, ATLAS_TO_RAS)


@pytest.fixture(scope="module")
def into_atlas(atlas: Atlas) -> AtlasMap:
    """The map that `TO_ATLAS` is, which a smooth map can only be near to."""
    places = places_of(BLOCK_TO_RAS, BLOCKS)
    positions = TO_ATLAS[:3, :3] @ places + TO_ATLAS[:3, 3:]
    return AtlasMap(atlas, positions.reshape(3, *BLOCKS).astype(np.float32), BLOCK_TO_RAS)


def expected(atlas: Atlas, voxel_to_ras: Any) -> tuple[Any, Any]:
    """Look every voxel up, one by one; also return how far it is from the border of its voxel."""
    at = np.linalg.inv(ATLAS_TO_RAS) @ TO_ATLAS
    places = at[:3, :3] @ places_of(voxel_to_ras, GRID_SHAPE) + at[:3, 3:]
    index = np.rint(places).astype(int)
    inside = np.all((index >= 0) & (index < np.array(SHAPE)[:, None]), axis=0)
    labels = np.zeros(index.shape[1], np.uint8)
    labels[inside] = atlas.labels[tuple(index[:, inside])]
    margin = 0.5 - np.abs(places - index).max(axis=0)
    return labels.reshape(GRID_SHAPE), margin.reshape(GRID_SHAPE)


@pytest.mark.parametrize("name", GRIDS)
def test_every_voxel_gets_the_label_at_its_place_in_the_atlas(
    atlas: Atlas, into_atlas: AtlasMap, name: str
) -> None:
    found = into_atlas.labels_on(GRIDS[name], GRID_SHAPE)
    truth, margin = expected(atlas, GRIDS[name])
    assert found.dtype == np.uint8
    assert {3, 7, 116} <= set(np.unique(found))
    # but for rounding on the very border of an atlas voxel
    assert np.array_equal(found[margin > 1e-3], truth[margin > 1e-3])


def test_a_place_keeps_its_label_whatever_the_grid(into_atlas: AtlasMap) -> None:
    whole = into_atlas.labels_on(GRIDS["straight"], GRID_SHAPE)
    moved = GRIDS["straight"] @ nib.affines.from_matvec(np.diag([2, 2, 2]), [4, 6, 2])
    part = into_atlas.labels_on(moved, (20, 20, 20))
    assert part.any()
    assert np.array_equal(part, whole[4:44:2, 6:46:2, 2:42:2])


def test_nothing_lies_far_outside_of_the_map(into_atlas: AtlasMap) -> None:
    far = GRIDS["straight"].copy()
    far[:3, 3] += 400
    assert not into_atlas.labels_on(far, (20, 20, 20)).any()
    beside = GRIDS["straight"].copy()
    beside[0, 3] -= 45
    labels = into_atlas.labels_on(beside, GRID_SHAPE)
    assert labels.any()
    assert not labels[:30].any()


def test_a_curved_map_is_followed_between_its_blocks(atlas: Atlas, into_atlas: AtlasMap) -> None:
    bend = 2 * np.sin(np.linspace(0, np.pi, BLOCKS[1])).astype(np.float32)
    bent = replace(into_atlas, positions=into_atlas.positions + bend[:, None])
    curved = bent.labels_on(GRIDS["straight"], GRID_SHAPE)
    # planes at a block's centre, and midway to the next
    for plane, shift in ((33, bend[6]), (36, (bend[6] + bend[7]) / 2)):
        moved = replace(into_atlas, positions=into_atlas.positions + shift)
        there = moved.labels_on(GRIDS["straight"], GRID_SHAPE)[:, plane]
        assert (curved[:, plane] == there).mean() > 0.99
    untouched = into_atlas.labels_on(GRIDS["straight"], GRID_SHAPE)[:, 33]
    assert (curved[:, 33] != untouched).mean() > 0.05


def test_labels_stay_inside_of_a_mask(into_atlas: AtlasMap) -> None:
    share = np.zeros((10, 10, 10), np.float32)
    share[5:] = 255
    grid = nib.affines.from_matvec(np.diag([6.0, 6.0, 6.0]), [-30.0, -30.0, -30.0])
    whole = into_atlas.labels_on(GRIDS["straight"], GRID_SHAPE)
    half = into_atlas.labels_on(GRIDS["straight"], GRID_SHAPE, Mask(share, grid, 127.5))
    # the border lies between the mask's voxels at -6 and 0 mm, at voxel 27
    assert whole[:27].any()
    assert not half[:27].any()
    assert np.array_equal(half[28:], whole[28:])


def test_an_atlas_comes_back_from_its_file(atlas: Atlas, tmp_path: Path) -> None:
    atlas.write(tmp_path / "atlas.npz")
    again = Atlas.read(tmp_path / "atlas.npz")
    assert np.array_equal(again.labels, atlas.labels)
    assert np.array_equal(again.voxel_to_ras, atlas.voxel_to_ras)


def test_a_large_scan_takes_little_memory_beside_its_labels(into_atlas: AtlasMap) -> None:
    import tracemalloc

    fine = GRIDS["tilted"] @ np.diag([1.4, 0.16, 0.2, 1])
    shape = (44, 400, 320)
    tracemalloc.start()
    labels = into_atlas.labels_on(fine, shape)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert labels.any()
    # all planes at once would be 16 bytes a voxel
    assert peak < 6 * labels.size
