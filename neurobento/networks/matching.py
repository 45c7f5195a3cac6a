"""Matching of two images: sampling one through a map, and the forces that align them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["code_force", "correlation_force", "fit_affine", "sample"]


def sample(table: Tensor, voxels: Tensor) -> Tensor:
    """Sample a table (X, Y, Z, C) at voxels (N, 3, x, y, z), trilinear, to (N, C, x, y, z).

    Values extend beyond the edge. Gathers, because many inference engines lack 3D grid sampling.
    """
    _, y, z, channels = table.shape
    flat = table.reshape(-1, channels)
    lows, shares = [], []
    for axis in range(3):
        place = voxels[:, axis].clamp(0, table.shape[axis] - 1)
        low = place.floor().clamp(max=table.shape[axis] - 2)
        lows.append(low.long())
        shares.append((1 - (place - low), place - low))
    parts = []
    for i, j, k in itertools.product((0, 1), repeat=3):
        index = ((lows[0] + i) * y + lows[1] + j) * z + lows[2] + k
        weight = shares[0][i] * shares[1][j] * shares[2][k]
        values = flat.index_select(0, index.flatten()).reshape(*index.shape, channels)
        parts.append(values * weight[..., None])
    return torch.stack(parts).sum(dim=0).movedim(-1, 1)


def fit_affine(points: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Fit matrix (N, 3, 3) and offset (N, 3) from points to targets (N, P, 3), by least squares."""
    shares = (weights / weights.sum(dim=1, keepdim=True))[..., None]
    middle, target = (points * shares).sum(dim=1), (targets * shares).sum(dim=1)
    x, y = points - middle[:, None], targets - target[:, None]
    # a hundredth of a squared unit: negligible beside a brain, and finite without one
    spread = (shares * x).transpose(1, 2) @ x + 0.01 * torch.eye(3, device=x.device)
    matrix = (shares * y).transpose(1, 2) @ x @ _inverse(spread)
    return matrix, target - (matrix @ middle[..., None])[..., 0]


def _inverse(matrix: Tensor) -> Tensor:
    """Invert (N, 3, 3); ONNX has no such operator."""
    a, b, c = matrix.unbind(dim=1)
    columns = torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], dim=2)
    return columns / (a * _cross(b, c)).sum(dim=1)[:, None, None]


def _cross(a: Tensor, b: Tensor) -> Tensor:
    ax, ay, az = a.unbind(dim=1)
    bx, by, bz = b.unbind(dim=1)
    return torch.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], dim=1)


def correlation_force(fixed: Tensor, moving: Tensor, radius: int = 2) -> tuple[Tensor, Tensor]:
    """Return local correlation (N, 1, X, Y, Z) and the direction (N, 3, X, Y, Z) in which it grows.

    Over cubes of 2 radius + 1 voxels: Avants et al. 2008, 10.1016/j.media.2007.06.004.
    """
    mean_fixed, mean_moving = _box_mean(fixed, radius), _box_mean(moving, radius)
    variance_fixed = _box_mean(fixed * fixed, radius) - mean_fixed * mean_fixed + 1e-3
    variance_moving = _box_mean(moving * moving, radius) - mean_moving * mean_moving + 1e-3
    covariance = _box_mean(fixed * moving, radius) - mean_fixed * mean_moving
    scale = torch.rsqrt(variance_fixed * variance_moving)
    slope = (fixed - mean_fixed) - covariance / variance_moving * (moving - mean_moving)
    return covariance * scale, slope * scale * _gradient(moving)


def code_force(fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared difference (N, 1, ...) of images (N, C, X, Y, Z) and the step (N, 3, ...).

    The step is slope over steepness: Gauss-Newton where one axis is steep, damped where all are
    flat.
    """
    difference = fixed - moving
    gradient = _gradient(moving).reshape(moving.shape[0], 3, *moving.shape[1:])
    towards = (gradient * difference[:, None]).sum(dim=2)
    steepness = gradient.square().sum(dim=(1, 2)).unsqueeze(1) + 0.05
    return difference.square().sum(dim=1, keepdim=True), towards / steepness


def _box_mean(image: Tensor, radius: int) -> Tensor:
    for axis in range(3):
        reach = min(radius, (image.shape[2 + axis] - 1) // 2)
        side, edge = [1, 1, 1], [0, 0, 0]
        side[axis], edge[axis] = 2 * reach + 1, reach
        image = F.avg_pool3d(image, side, 1, edge, count_include_pad=False)
    return image


def _gradient(image: Tensor) -> Tensor:
    parts = []
    for axis in (2, 3, 4):
        size = image.shape[axis]
        after = torch.cat([image.narrow(axis, 1, size - 1), image.narrow(axis, size - 1, 1)], axis)
        before = torch.cat([image.narrow(axis, 0, 1), image.narrow(axis, 0, size - 1)], axis)
        parts.append((after - before) * 0.5)
    return torch.cat(parts, dim=1)
