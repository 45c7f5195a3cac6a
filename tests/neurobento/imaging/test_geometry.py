"""Laws of the mapping between grids, with nibabel and SciPy as oracles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from neurobento.imaging import geometry
from neurobento.imaging.geometry import NETWORK_SHAPE, Grid, axis_codes, voxel_sizes_mm

GRIDS = {
    "RAS": {"codes": "RAS"},
    "LAS": {"codes": "LAS"},
    "LPS": {"codes": "LPS"},
    "LIA": {"codes": "LIA"},
    "ASL": {"codes": "ASL"},
    "anisotropic": {"codes": "PIR", "sizes_mm": (2.2, 5.0, 3.0)},
    "oblique": {"codes": "LPS", "tilt_rad": 0.3},
    "oblique-anisotropic": {"codes": "AIL", "sizes_mm": (3.0, 4.5, 2.5), "tilt_rad": -0.2},
}
TINY_SHAPE = (16, 16, 16)


def network_affine(phantom_on: Callable[..., Any], tilt_rad: float = 0.0) -> Any:
    """A RAS grid of the network's shape over the phantom, 1.6 x 1.5 x 1.2 mm."""
    return phantom_on("RAS", (1.6, 1.5, 1.2), tilt_rad, NETWORK_SHAPE, (0.0, 0.0, 0.0)).affine


def grid_for(phantom: Any, network_voxel_to_ras: NDArray[np.float64]) -> Grid:
    return Grid(phantom.shape, phantom.affine, network_voxel_to_ras)


def sampled_by_scipy(
    source: NDArray[np.uint8], source_from_target: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    return ndimage.affine_transform(
        source,
        source_from_target[:3, :3],
        offset=source_from_target[:3, 3],
        output_shape=shape,
        order=0,
        mode="grid-constant",
        prefilter=False,
    )


@pytest.mark.parametrize("name", GRIDS)
def test_sampling_is_scipys_nearest_neighbour_and_restore_undoes_apply(
    name: str, phantom_on: Callable[..., Any], dice: Callable[..., float]
) -> None:
    native = phantom_on(**GRIDS[name])
    grid = grid_for(native, network_affine(phantom_on))
    forward, back = np.linalg.inv(grid.network_from_native), grid.network_from_native
    on_network = grid.apply(native.labels)
    assert (on_network.shape, on_network.dtype) == (NETWORK_SHAPE, np.uint8)
    assert np.array_equal(on_network, sampled_by_scipy(native.labels, forward, NETWORK_SHAPE))
    restored = grid.restore(on_network)
    assert (restored.shape, restored.dtype) == (native.shape, np.uint8)
    # a vote among neighbours that are one native voxel finds what the nearest one has
    assert np.array_equal(restored, sampled_by_scipy(on_network, back, native.shape))
    assert min(dice(restored, native.labels, index) for index in range(1, 6)) > 0.97


def test_restore_undoes_apply_on_an_oblique_network_grid(
    phantom: Any, phantom_on: Callable[..., Any], dice: Callable[..., float]
) -> None:
    grid = grid_for(phantom, network_affine(phantom_on, tilt_rad=0.15))
    restored = grid.restore(grid.apply(phantom.labels))
    assert min(dice(restored, phantom.labels, index) for index in range(1, 6)) > 0.97


@pytest.mark.parametrize("codes", ["RAS", "LIA"])
@pytest.mark.parametrize("tilt_rad", [0.0, 0.25])
def test_restore_undoes_apply_on_tiny_grids(
    codes: str, tilt_rad: float, phantom_on: Callable[..., Any]
) -> None:
    native = phantom_on(codes, (7.0, 7.0, 7.0), tilt_rad, TINY_SHAPE, (0.0, 0.0, 0.0))
    grid = grid_for(native, network_affine(phantom_on))
    network_index = nib.affines.apply_affine(
        grid.network_from_native, np.argwhere(native.labels > 0)
    )
    reached = ((network_index >= 0) & (network_index <= np.array(NETWORK_SHAPE) - 1)).all(axis=1)
    restored = grid.restore(grid.apply(native.labels))
    assert reached.mean() > 0.9
    same = (restored == native.labels)[native.labels > 0]
    assert same[reached].all()


@pytest.mark.parametrize("name", GRIDS)
def test_apply_and_restore_give_what_lies_at_the_same_place_in_the_world(
    name: str, phantom_on: Callable[..., Any], dice: Callable[..., float]
) -> None:
    """The phantom is analytic, so its labels on the network grid are known without resampling."""
    native = phantom_on(**GRIDS[name])
    truth = phantom_on("RAS", (1.6, 1.5, 1.2), 0.0, NETWORK_SHAPE, (0.0, 0.0, 0.0))
    grid = grid_for(native, truth.affine)
    moved, restored = grid.apply(native.labels), grid.restore(truth.labels)
    assert min(dice(moved, truth.labels, index) for index in range(1, 6)) > 0.8
    assert min(dice(restored, native.labels, index) for index in range(1, 6)) > 0.9


@pytest.mark.parametrize("name", GRIDS)
def test_left_stays_left(name: str, phantom_on: Callable[..., Any]) -> None:
    native = phantom_on(**GRIDS[name])
    network = network_affine(phantom_on)
    left_half = np.zeros(NETWORK_SHAPE, dtype=np.uint8)
    x_mm = network[0, 0] * np.arange(NETWORK_SHAPE[0]) + network[0, 3]
    left_half[x_mm < -6] = 1
    restored = grid_for(native, network).restore(left_half)
    restored_world = nib.affines.apply_affine(native.affine, np.argwhere(restored))
    assert len(restored_world) > 1000
    assert restored_world[:, 0].max() < 0


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2), (2, 1, 0)])
@pytest.mark.parametrize("seed", range(4))
def test_the_index_path_equals_scipy_on_noise(axes: tuple[int, int, int], seed: int) -> None:
    """Flips, scales and shifts, with the target reaching beyond the source on all sides."""
    random = np.random.default_rng(seed)
    source = random.integers(1, 117, (9, 12, 7), dtype=np.uint8)
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for target_axis, source_axis in enumerate(axes):
        scale = random.choice([-1, 1]) * random.uniform(0.4, 1.7)
        matrix[source_axis, target_axis] = scale
        matrix[source_axis, 3] = -2.3 if scale > 0 else source.shape[source_axis] + 2.1
    shape = (40, 35, 45)
    found = geometry._nearest_along_axes(source, matrix, shape, axes)
    assert geometry.matching_axes(matrix) == axes
    assert np.array_equal(found, sampled_by_scipy(source, matrix, shape))
    assert (found == 0).any()
    assert set(np.unique(found)) - {0} <= set(np.unique(source))


def test_shifts_by_whole_voxels_and_flips_are_exact_and_permutations_are_nibabels() -> None:
    shape = (8, 9, 10)
    source = np.random.default_rng(5).integers(1, 117, shape, dtype=np.uint8)
    network = nib.affines.from_matvec(np.eye(3), [2, -1, 0])
    restored = Grid(shape, np.eye(4), network, shape).restore(source)
    assert np.array_equal(restored[2:, :8], source[:-2, 1:])
    assert not restored[:2].any()
    assert not restored[:, 8:].any()
    flipped = nib.affines.from_matvec(np.diag([-1.0, 1, 1]), [7, 0, 0])
    restored = Grid(shape, flipped, np.eye(4), shape).restore(source)
    assert np.array_equal(restored, source[::-1])
    turned = nib.Nifti1Image(source, np.eye(4)).as_reoriented(nib.orientations.axcodes2ornt("SLP"))
    grid = Grid(turned.shape, turned.affine, np.eye(4), shape)
    assert np.array_equal(grid.restore(source), np.asarray(turned.dataobj))


def test_outside_the_network_grid_is_background() -> None:
    network = np.full((8, 8, 8), 9, dtype=np.uint8)
    native_affine = nib.affines.from_matvec(np.eye(3), [-6, -6, -6])
    restored = Grid((20, 20, 20), native_affine, np.eye(4), (8, 8, 8)).restore(network)
    assert restored.sum() == 9 * 8**3
    assert (restored[6:14, 6:14, 6:14] == 9).all()


def test_grids_apart_share_nothing(phantom: Any) -> None:
    far = phantom.affine.copy()
    far[:3, 3] += 5000
    grid = Grid(phantom.shape, phantom.affine, far)
    assert not grid.apply(phantom.labels).any()
    assert not grid.restore(np.ones(NETWORK_SHAPE, dtype=np.uint8)).any()


def test_labels_off_the_grid_are_refused(phantom: Any) -> None:
    grid = grid_for(phantom, np.eye(4))
    for shape in ((123, 122, 91), (91, 122), (1, 91, 122, 123), (90, 122, 123)):
        with pytest.raises(ValueError, match="expected labels of shape"):
            grid.restore(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(ValueError, match="expected labels of shape"):
        grid.apply(phantom.labels[:-1])


@pytest.mark.parametrize("tilt_rad", [0.0, 0.3])
def test_inputs_may_be_read_only_and_are_not_modified_and_not_shared(
    tilt_rad: float, phantom_on: Callable[..., Any]
) -> None:
    native = phantom_on("LPS", tilt_rad=tilt_rad)
    labels, affine = native.labels.copy(), native.affine.copy()
    grid = grid_for(native, network_affine(phantom_on))
    on_network = grid.apply(native.labels)
    kept = on_network.copy()
    grid.restore(on_network)[:] = 255
    assert np.array_equal(native.labels, labels)
    assert np.array_equal(native.affine, affine)
    assert np.array_equal(on_network, kept)
    on_network.setflags(write=False)
    assert grid.restore(on_network).any()


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "LIA", "ASL", "SRP"])
def test_axis_codes_are_nibabels(codes: str, phantom_on: Callable[..., Any]) -> None:
    assert axis_codes(phantom_on(codes, tilt_rad=0.1).affine) == codes


def test_voxel_sizes_are_nibabels(phantom_on: Callable[..., Any]) -> None:
    affine = phantom_on("AIL", (3.0, 4.5, 2.5), 0.2).affine
    assert voxel_sizes_mm(affine) == pytest.approx(nib.affines.voxel_sizes(affine), abs=1e-12)
    assert voxel_sizes_mm(affine) == pytest.approx((3.0, 4.5, 2.5), abs=1e-12)
