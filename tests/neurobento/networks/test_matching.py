"""Laws of matching: reading a table, fitting an affine map, and forces that close a gap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor
from torch.nn import functional as F

from neurobento.networks.matching import code_force, correlation_force, fit_affine, sample

SHAPE = (9, 11, 10)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def smooth(seed: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """(1, 1, X, Y, Z), from 0 to 1."""
    image = gaussian_filter(drawn(seed, *shape).numpy(), 1.2)
    image = (image - image.min()) / (image.max() - image.min())
    return torch.from_numpy(image)[None, None]


# --- reading ---


def grid_sampled(table: Tensor, voxels: Tensor) -> Tensor:
    """PyTorch's own; its coordinates go from -1 to 1 between the outer faces, z first."""
    size = torch.tensor(table.shape[:3]).reshape(1, 3, 1, 1, 1)
    grid = (2 * (voxels + 0.5) / size - 1).movedim(1, -1).flip(-1)
    image = table.movedim(-1, 0).expand(len(voxels), -1, -1, -1, -1)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


@pytest.mark.parametrize("channels", [1, 3])
def test_sample_is_torchs_grid_sample(channels: int) -> None:
    """Up to four voxels beyond each edge, where the outermost voxels go on."""
    table = drawn(0, 5, 7, 6, channels)
    size = torch.tensor(table.shape[:3]).reshape(1, 3, 1, 1, 1)
    voxels = drawn(1, 2, 3, 8, 9, 7) * (size + 7) - 4
    found = sample(table, voxels)
    assert found.shape == (2, channels, 8, 9, 7)
    torch.testing.assert_close(found, grid_sampled(table, voxels), rtol=0, atol=1e-5)


def test_sample_at_a_tables_voxels_is_the_table_and_far_beyond_it_its_corner() -> None:
    """Its last voxels too, which have no neighbour to share with."""
    table = drawn(0, 5, 7, 6, 2)
    voxels = torch.from_numpy(np.indices((5, 7, 6)))[None].float()
    assert torch.equal(sample(table, voxels)[0].movedim(0, -1), table)
    for end, corner in ((-1e3, table[0, 0, 0]), (1e3, table[-1, -1, -1])):
        torch.testing.assert_close(
            sample(table, torch.full((1, 3, 1, 1, 1), end)).flatten(), corner
        )


# --- an affine map ---


def points() -> Tensor:
    return 60 * drawn(2, 2, 40, 3)


def affine() -> tuple[Tensor, Tensor]:
    """Another one for each of two scans."""
    matrix = torch.eye(3) + 0.3 * (drawn(3, 2, 3, 3) - 0.5)
    return matrix, 20 * (drawn(4, 2, 3) - 0.5)


def test_fit_affine_recovers_a_known_map() -> None:
    matrix, offset = affine()
    targets = points() @ matrix.mT + offset[:, None]
    found = fit_affine(points(), targets, drawn(5, 2, 40) + 0.1)
    # the ridge is some 1e-4 of the points' spread
    torch.testing.assert_close(found[0], matrix, rtol=0, atol=1e-3)
    torch.testing.assert_close(found[1], offset, rtol=0, atol=1e-2)


def test_fit_affine_has_least_weighted_squares_in_a_batch_and_scan_by_scan() -> None:
    """As NumPy has them, with targets that no affine map meets."""
    targets, weights = points() + 20 * drawn(6, 2, 40, 3), drawn(7, 2, 40) ** 3 + 0.01
    matrix, offset = fit_affine(points(), targets, weights)
    for i in range(2):
        root = weights[i].sqrt()[:, None].double()
        design = torch.cat([points()[i], torch.ones(40, 1)], dim=1).double()
        expected = np.linalg.lstsq(
            (root * design).numpy(), (root * targets[i].double()).numpy(), rcond=None
        )[0]
        np.testing.assert_allclose(matrix[i].numpy(), expected[:3].T, atol=1e-3)
        np.testing.assert_allclose(offset[i].numpy(), expected[3], atol=1e-2)
    weights = drawn(7, 2, 40) + 0.1
    matrix, offset = fit_affine(points(), targets, weights)
    for i in range(2):
        part = slice(i, i + 1)
        alone = fit_affine(points()[part], targets[part], weights[part])
        torch.testing.assert_close(alone[0], matrix[part], rtol=0, atol=1e-4)
        torch.testing.assert_close(alone[1], offset[part], rtol=0, atol=5e-3)


@pytest.mark.parametrize("flat", [1, 2, 3])
def test_points_in_a_plane_a_line_or_a_point_are_fitted_where_they_are(flat: int) -> None:
    """There no affine map is the only one; the one that is given still meets the targets."""
    matrix, offset = affine()
    flattened = points()
    flattened[..., :flat] = 7
    targets = flattened @ matrix.mT + offset[:, None]
    found, moved = fit_affine(flattened, targets, drawn(5, 2, 40) + 0.1)
    torch.testing.assert_close(
        flattened @ found.mT + moved[:, None], targets, rtol=0, atol=1e-2 if flat < 3 else 1e-3
    )


# --- correlation ---


def cube(image: Tensor, voxel: tuple[int, int, int], radius: int) -> NDArray[np.float64]:
    """What lies around a voxel, as far as the image goes."""
    box = tuple(slice(max(0, v - radius), v + radius + 1) for v in voxel)
    return np.asarray(image[0, 0][box].double().numpy()).ravel()


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("voxel", [(4, 5, 5), (0, 0, 0), (8, 3, 9), (2, 10, 1)])
def test_correlation_is_that_of_the_cubes_around_a_voxel(
    radius: int, voxel: tuple[int, int, int]
) -> None:
    """Intensities of 0 to 100, so what keeps flat cubes finite is beyond the digits compared."""
    fixed, moving = 100 * smooth(0), 100 * smooth(1)
    expected = np.corrcoef(cube(fixed, voxel, radius), cube(moving, voxel, radius))[0, 1]
    correlation, _ = correlation_force(fixed, moving, radius)
    assert correlation.shape == (1, 1, *SHAPE)
    assert correlation[0, 0][voxel].item() == pytest.approx(expected, abs=2e-3)


def test_an_image_correlates_with_itself_however_bright() -> None:
    fixed = smooth(0)
    for moving, sign in ((fixed, 1), (3 * fixed + 2, 1), (-fixed, -1)):
        correlation, _ = correlation_force(10 * fixed, 10 * moving)
        assert (sign * correlation).min() > 0.99


@pytest.mark.parametrize("voxel", [(4, 5, 5), (1, 0, 7), (8, 9, 3)])
def test_the_correlations_force_is_its_slope(voxel: tuple[int, int, int]) -> None:
    """By automatic differentiation, of the voxel's own intensity and so of where it is read."""
    fixed, moving = smooth(0), smooth(1).requires_grad_()
    correlation, force = correlation_force(fixed, moving)
    (slope,) = torch.autograd.grad(correlation[0, 0][voxel], moving, retain_graph=True)
    steepness = np.gradient(np.pad(moving.detach()[0, 0].numpy(), 1, mode="edge"))
    inside = tuple(v + 1 for v in voxel)
    counted = len(cube(fixed, voxel, 2))
    expected = [counted * slope[0, 0][voxel].item() * float(axis[inside]) for axis in steepness]
    found = force.detach()[0][(slice(None), *voxel)].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_reading_along_the_correlations_force_raises_it() -> None:
    fixed, moving = smooth(0, (16, 18, 17)), smooth(1, (16, 18, 17))
    before, force = correlation_force(fixed, moving)
    step = 0.3 * force / force.square().sum(dim=1, keepdim=True).sqrt().max()
    means: list[float] = []
    for sign in (-1, 0, 1):
        places = np.indices((16, 18, 17)) + sign * step[0].numpy()
        read: Any = map_coordinates(moving[0, 0].numpy(), places, order=1, mode="nearest")
        there = correlation_force(fixed, torch.from_numpy(read)[None, None])[0]
        means.append(there.mean().item())
    assert means[1] == pytest.approx(before.mean().item(), abs=1e-6)
    assert means[0] < means[1] - 0.01
    assert means[2] > means[1] + 0.01


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("shift", [-1, 1])
def test_the_correlations_force_points_to_where_a_shifted_image_lies(axis: int, shift: int) -> None:
    """A moving image rolled by `shift` holds, that much further along the axis, what it held."""
    fixed = torch.zeros(1, 1, 15, 15, 15)
    distance = ((torch.from_numpy(np.indices((15, 15, 15))) - 7) ** 2).sum(dim=0)
    fixed[0, 0] = torch.exp(-distance / 8)
    _, force = correlation_force(fixed, fixed.roll(shift, axis + 2))
    pull = force.sum(dim=(0, 2, 3, 4))
    assert pull[axis] * shift > 1
    assert pull[[i for i in range(3) if i != axis]].abs().max() < 1e-3


# --- codes ---


@pytest.mark.parametrize("shift", [(0.5, 0.0, 0.0), (0.0, -0.75, 0.0), (0.25, 0.5, -1.0)])
def test_the_codes_force_moves_a_shifted_ramp_back(shift: tuple[float, float, float]) -> None:
    """Three ramps, one along each axis, steep enough for the damping not to matter."""
    places = torch.from_numpy(np.indices(SHAPE))[None].float()
    moving = 20 * places
    fixed = moving + 20 * torch.tensor(shift).reshape(1, 3, 1, 1, 1)
    gap, force = code_force(fixed, moving)
    expected = 400 * sum(part**2 for part in shift)
    torch.testing.assert_close(gap, torch.full((1, 1, *SHAPE), expected))
    # each ramp's slope is one of three that the damped sum of squares is made of
    inside = 3 * force[:, :, 1:-1, 1:-1, 1:-1]
    there = torch.tensor(shift).reshape(1, 3, 1, 1, 1).expand_as(inside)
    torch.testing.assert_close(inside, there, rtol=0, atol=1e-3)


@pytest.mark.parametrize("axis", range(3))
def test_the_codes_force_closes_a_gap_along_one_axis_in_one_step(axis: int) -> None:
    """Of 16 codes that all change along it, and by no more than the gap."""
    ramp = torch.from_numpy(np.indices(SHAPE))[axis].float()
    moving = ramp * torch.linspace(-1, 1, 16).reshape(1, 16, 1, 1, 1)
    fixed = (ramp + 0.6) * torch.linspace(-1, 1, 16).reshape(1, 16, 1, 1, 1)
    force = code_force(fixed, moving)[1][:, :, 1:-1, 1:-1, 1:-1]
    assert 0.58 < force[:, axis].min() <= force[:, axis].max() < 0.6
    assert not force[:, [i for i in range(3) if i != axis]].any()


def test_flat_images_and_flat_codes_pull_nowhere() -> None:
    correlation, force = correlation_force(torch.zeros(1, 1, *SHAPE), torch.ones(1, 1, *SHAPE))
    assert correlation.abs().max() < 1e-3
    assert not force.any()
    fixed = drawn(0, 2, 16, *SHAPE)
    gap, force = code_force(fixed, torch.full_like(fixed, 0.25))
    torch.testing.assert_close(gap, (fixed - 0.25).square().sum(dim=1, keepdim=True))
    assert not force.any()
