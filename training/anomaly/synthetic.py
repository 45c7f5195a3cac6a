"""Healthy slices with synthetic anomalies, and masks of where they are.

Foreign patch interpolation (Tan et al. 2020) and natural synthetic anomalies (Schlüter et al.
2022): ellipses with a wandering outline, filled with other tissue, a ring, one grey or a piece of
another slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neurobento.imaging.geometry import SLICE_SHAPE

__all__ = ["add_coarse_noise", "augment_slices", "put_in_anomalies"]

UNCHANGED = 0.35
"""Share of slices that stay healthy."""

SECOND = 0.25
"""Share of the others that get a second anomaly."""

VISIBLE, AROUND = 0.04, 9
"""Least mean change that counts, over a square of this edge in pixels."""

DEPTH = 25
"""Edge in pixels of a square around the middle of an anomaly that lies within the head."""

FAINTEST = 0.08
"""Least change in the middle of an anomaly; more where the tissue is brighter."""

COARSE_NOISE, COARSE_NODES = 0.2, 16

ROTATION_RAD, SCALE, SHIFT, DISPLACEMENT = 0.25, 0.12, 0.08, 0.03
GAMMA, BIAS, NOISE = (-0.5, 0.9), 0.15, 0.03
"""GAMMA is the exponent's logarithm: its upper end is dark tissue under bright fat."""

ROWS, COLUMNS = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SLICE_SHAPE), indexing="ij")


def put_in_anomalies(images: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Put anomalies into most images, (N, 128, 128) in [0, 1], and return their masks, 0 or 1."""
    changed, inside = images.clone(), torch.zeros_like(images, dtype=torch.bool)
    for i in range(len(images)):
        if random.random() < UNCHANGED:
            continue
        tissue = (_mean_around((images[i] > 0).float(), DEPTH) > 0.95).nonzero()
        for _ in range(1 + int(random.random() < SECOND)):
            if len(tissue):
                row, column = tissue[random.integers(len(tissue))]
                distance = _blob(row, column, random)
                soft = random.uniform(0.03, 0.3)
                weight = torch.sigmoid((1 - distance) / soft)
                filling = _filling(changed[i], distance, images, random)
                changed[i] = (1 - weight) * changed[i] + weight * filling.clamp(0, 1.2)
                inside[i] |= weight > 0.5
    changed = changed.clamp(0, 1)
    # what a second anomaly undid, or was brightest before, does not count
    seen = torch.stack([_mean_around(each, AROUND) for each in (changed - images).abs()]) > VISIBLE
    return changed, (inside & seen).float()


def _mean_around(image: Tensor, edge: int) -> Tensor:
    rows = F.avg_pool2d(image[None, None], (edge, 1), 1, (edge // 2, 0))
    return F.avg_pool2d(rows, (1, edge), 1, (0, edge // 2))[0, 0]


def _blob(row: Tensor, column: Tensor, random: np.random.Generator) -> Tensor:
    """Return distances from a point in units of an irregular outline around an ellipse."""
    radius, stretch = random.uniform(0.1, 0.4), random.uniform(0.6, 1.6)
    angle = random.uniform(0, math.pi)
    down, right = ROWS - ROWS[row, column], COLUMNS - COLUMNS[row, column]
    along = right * math.cos(angle) + down * math.sin(angle)
    across = down * math.cos(angle) - right * math.sin(angle)
    outline = torch.hypot(along / radius, across / (radius * stretch))
    return outline + 0.35 * _smooth(random, 1, int(random.integers(4, 9)))[0]


def _filling(
    image: Tensor, distance: Tensor, others: Tensor, random: np.random.Generator
) -> Tensor:
    texture = 1 + 0.4 * random.random() * _smooth(random, 1, int(random.integers(6, 24)))[0]
    level = float(image[distance < 1].mean()) if bool((distance < 1).any()) else 0.0
    kind = random.random()
    if kind < 0.4:
        return image + _change(level, random) * texture
    if kind < 0.75:
        width, middle = random.uniform(0.06, 0.3), random.uniform(-0.6, 0.4) * level
        rim = torch.exp(-(((distance - 0.9) / width) ** 2))
        return image + (abs(_change(level, random)) * rim + middle * (1 - rim)) * texture
    if kind < 0.85:
        return random.uniform(0.05, 1.0) * texture
    other = others[random.integers(len(others))]
    shift = (int(random.integers(-40, 40)), int(random.integers(-40, 40)))
    return torch.roll(other, shift, (0, 1))


def _change(level: float, random: np.random.Generator) -> float:
    """Draw how much brighter, or darker, an anomaly is than tissue of this level."""
    if random.random() < 0.65:
        return FAINTEST + random.uniform(0, 1.5) * level
    return -FAINTEST - random.uniform(0, 0.8) * level


def add_coarse_noise(images: Tensor, random: np.random.Generator) -> Tensor:
    """Add noise as coarse as tumours inside the head: 16 x 16 nodes (Kascenas et al., 2022)."""
    noise = COARSE_NOISE * _smooth(random, len(images), COARSE_NODES)
    return images + noise * (images > 0)


def augment_slices(images: Tensor, random: np.random.Generator) -> Tensor:
    """Rotate, mirror, scale, bend and change the contrast of slices (N, 128, 128) in [0, 1]."""
    count = len(images)
    grid = F.affine_grid(_affines(count, random), [count, 1, *SLICE_SHAPE], align_corners=False)
    bent = torch.stack([_smooth(random, count, 6), _smooth(random, count, 6)], -1)
    moved = F.grid_sample(images[:, None], grid + DISPLACEMENT * bent, align_corners=False)[:, 0]
    gamma = torch.from_numpy(np.exp(random.uniform(*GAMMA, (count, 1, 1))))
    contrast = moved.clamp(0, 1) ** gamma.float() * (1 + BIAS * _smooth(random, count, 3))
    noise = torch.from_numpy(random.standard_normal(contrast.shape, np.float32))
    # no noise in the air, which is zero
    return (contrast + NOISE * random.random() * noise * (moved > 0)).clamp(0, 1)


def _affines(count: int, random: np.random.Generator) -> Tensor:
    angle = random.uniform(-ROTATION_RAD, ROTATION_RAD, count)
    scale = random.uniform(1 - SCALE, 1 + SCALE, (2, count))
    shift = random.uniform(-SHIFT, SHIFT, (2, count))
    side = random.choice([-1.0, 1.0], count)
    cos, sin = np.cos(angle), np.sin(angle)
    rows: Sequence[Sequence[np.ndarray]] = (
        (side * cos * scale[0], -sin * scale[1], shift[0]),
        (side * sin * scale[0], cos * scale[1], shift[1]),
    )
    return torch.from_numpy(np.array(rows).transpose(2, 0, 1)).float()


def _smooth(random: np.random.Generator, count: int, nodes: int) -> Tensor:
    """Draw normal noise (N, 128, 128) at `nodes` along each edge, smooth between them."""
    noise = torch.from_numpy(random.standard_normal((count, 1, nodes, nodes), np.float32))
    return F.interpolate(noise, SLICE_SHAPE, mode="bicubic", align_corners=False)[:, 0]
