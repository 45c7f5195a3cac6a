"""Draw heads of random shape and contrast from label maps, with exact brain and tissues."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neurobento.imaging.geometry import FINDER_SHAPE, FINDER_VOXEL_MM
from training.brain.head_maps import (
    OUTSIDE_SKULL,
    STRUCTURE_OF_VALUE,
    STRUCTURES,
    TISSUE_OF_VALUE,
    HeadMap,
)

__all__ = ["DrawnHead", "change_intensities", "cut_field_of_view", "draw_head", "random_grid"]

T1 = {
    "air": 0.0,
    "cerebrospinal fluid": 0.18,
    "ventricles": 0.16,
    "cerebral cortex": 0.62,
    "cerebral white matter": 0.95,
    "caudate and accumbens": 0.68,
    "putamen": 0.74,
    "pallidum": 0.88,
    "thalamus": 0.8,
    "ventral diencephalon": 0.85,
    "hippocampus": 0.62,
    "amygdala": 0.62,
    "cerebellar cortex": 0.62,
    "cerebellar white matter": 0.92,
    "brainstem": 0.88,
    "spinal cord": 0.85,
    "dura": 0.4,
    "skull": 0.12,
    "marrow": 0.6,
    "skin and fat": 1.0,
    "muscle": 0.5,
    "eyes": 0.25,
    "lenses": 0.5,
    "vessels": 0.6,
    "mucosa": 0.5,
    "optic nerve": 0.7,
    "spinal fluid": 0.18,
}
"""Rough intensities of a T1-weighted scan."""

T1_SHARE = 0.55
"""Share of heads drawn with the contrast of T1; the others have random intensities."""


@dataclass(frozen=True, eq=False)
class DrawnHead:
    """A drawn head on the finder's grid."""

    image: Tensor  # (X, Y, Z) float32 in [0, 1]
    brain: Tensor  # (X, Y, Z) float32, 1 inside the skull
    tissues: Tensor  # (X, Y, Z) int64, places in `TISSUES`


def random_grid(random: np.random.Generator, extent_mm: float) -> Tensor:
    """Return sampling positions (1, X, Y, Z, 3) in mm from the middle of the head, x first.

    Rotation, scale, shift and two smooth displacements; one head in two is mirrored.
    """
    # centres of voxels
    axes = [((torch.arange(n) + 0.5) / n - 0.5) * extent_mm for n in FINDER_SHAPE]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    angles = random.normal(0, 0.12, 3)
    if random.random() < 0.15:
        angles[random.integers(3)] = random.uniform(-0.6, 0.6)
    a, b, c = angles
    generator = torch.tensor([[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]], dtype=torch.float32)
    scale = np.exp(random.normal(0, 0.09) + random.normal(0, 0.04, 3))
    matrix = torch.linalg.matrix_exp(generator) * torch.from_numpy(scale).float()
    if random.random() < 0.5:
        matrix[0] = -matrix[0]
    shift = random.uniform(-1, 1, 3) * (12, 22, 30)
    points = points @ matrix.T + torch.from_numpy(shift).float()
    for nodes, amount in ((4, 3.5), (9, 1.8)):
        offsets = torch.from_numpy(random.normal(0, amount, (1, 3, nodes, nodes, nodes))).float()
        smooth = F.interpolate(offsets, size=FINDER_SHAPE, mode="trilinear", align_corners=True)
        points = points + smooth[0].permute(1, 2, 3, 0)
    sampled: Tensor = points[None]
    return sampled


def draw_head(head: HeadMap, random: np.random.Generator) -> DrawnHead:
    """Draw a random head; equal generators draw equal heads."""
    values = _sample_map(head, random)
    brain = (values > 0) & (values < OUTSIDE_SKULL)
    if random.random() < 0.15:
        values, brain = _strip(values, brain, random)
    values = cut_field_of_view(values, random)
    brain = brain & (values > 0)
    image = _paint(values, random)
    image = change_intensities(image, random)
    return DrawnHead(image, brain.float(), TISSUE_OF_VALUE[values.long()])


def _sample_map(head: HeadMap, random: np.random.Generator) -> Tensor:
    """Return the map's values on the finder's grid after a random change of shape."""
    sides = torch.tensor(head.values.shape, dtype=torch.float32)
    # the brain lies in the upper part of the head, as `finder_image` has it
    brain = torch.nonzero((head.values > 0) & (head.values < OUTSIDE_SKULL))[::101].float()
    middle = (brain.amin(dim=0) + brain.amax(dim=0)) / 2
    middle[2] -= 12
    points = random_grid(random, FINDER_SHAPE[0] * FINDER_VOXEL_MM) + middle
    grid = (2 * points + 1) / sides - 1
    sampled = F.grid_sample(
        head.values[None, None].float(), grid.flip(-1), mode="nearest", align_corners=False
    )
    return sampled[0, 0].to(torch.uint8)


def _strip(values: Tensor, brain: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Take off the skull, tightly or loosely, with a fringe of what lay outside."""
    near = brain[None, None].float()
    if random.random() < 0.5:
        near = F.max_pool3d(near, 3, stride=1, padding=1)
    elif random.random() < 0.3:
        near = -F.max_pool3d(-near, 3, stride=1, padding=1)
    kept = near[0, 0] > 0
    return torch.where(kept, values, 0), brain & kept


def cut_field_of_view(values: Tensor, random: np.random.Generator) -> Tensor:
    """Set to zero what lies outside a random field of view; most cuts are below the brain."""
    values = values.clone()
    x, y, z = values.shape
    if random.random() < 0.4:
        values[:, :, : int(z * random.uniform(0.05, 0.33))] = 0
    if random.random() < 0.08:
        values[:, :, int(z * random.uniform(0.75, 0.95)) :] = 0
    if random.random() < 0.15:
        values[: int(x * random.uniform(0, 0.27))] = 0
        values[int(x * random.uniform(0.73, 1)) :] = 0
    if random.random() < 0.15:
        values[:, : int(y * random.uniform(0, 0.15))] = 0
        values[:, int(y * random.uniform(0.8, 1)) :] = 0
    if random.random() < 0.2:
        _remove_face(values, random)
    return values


def _remove_face(values: Tensor, random: np.random.Generator) -> None:
    """Set to zero everything in front of a plane that falls from the forehead to the neck."""
    _, y, z = values.shape
    rows, heights = torch.meshgrid(torch.arange(y), torch.arange(z), indexing="ij")
    forehead = random.uniform(0.85, 1.0) * y
    slope = random.uniform(0.5, 1.1)
    values[:, rows - forehead > slope * (heights - random.uniform(0.4, 0.5) * z)] = 0


def _paint(values: Tensor, random: np.random.Generator) -> Tensor:
    """Give each structure an intensity and a texture."""
    count = len(STRUCTURES)
    if random.random() < T1_SHARE:
        means = np.array([T1[name] for name in STRUCTURES]) + random.normal(0, 0.07, count)
        means[0] = 0
    else:
        means = random.uniform(0, 1, count)
        # air is dark in every scan, bone in most
        means[0] = 0
        if random.random() < 0.7:
            means[list(STRUCTURES).index("skull")] *= 0.3
    deviations = random.uniform(0.01, 0.09, count)
    deviations[0] = random.choice([0.0, random.uniform(0, 0.04)])
    structure = STRUCTURE_OF_VALUE[values.long()]
    noise = torch.from_numpy(random.standard_normal(values.shape, dtype=np.float32))
    painted = torch.from_numpy(np.maximum(means, 0)).float()[structure]
    return (painted + torch.from_numpy(deviations).float()[structure] * noise).abs()


def change_intensities(image: Tensor, random: np.random.Generator) -> Tensor:
    """Blur an image (X, Y, Z) like a scan of any voxels; change gamma, bias and noise; scale it."""
    image = _blur(image, random)
    nodes = torch.from_numpy(random.normal(0, random.uniform(0, 0.4), (1, 1, 4, 4, 4))).float()
    bias = F.interpolate(nodes, size=image.shape, mode="trilinear", align_corners=True)
    image = _scale(image) ** math.exp(random.normal(0, 0.25)) * torch.exp(bias[0, 0])
    noise = torch.from_numpy(random.standard_normal(image.shape, dtype=np.float32))
    noisy = (image + random.uniform(0, 0.05) * noise).abs()
    # a background that a tool has set stays zero
    return _scale(torch.where(image > 0, noisy, image if random.random() < 0.5 else noisy))


def _blur(image: Tensor, random: np.random.Generator) -> Tensor:
    sigmas = np.full(3, random.uniform(0.2, 0.8))
    if random.random() < 0.25:
        # thick slices
        sigmas[random.integers(3)] = random.uniform(0.8, 1.6)
    blurred = image[None, None]
    for axis, sigma in enumerate(sigmas):
        places = torch.arange(-4, 5)
        kernel = torch.exp(-0.5 * (places / float(sigma)) ** 2)
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[axis + 2], padding[axis] = len(places), 4
        blurred = F.conv3d(blurred, (kernel / kernel.sum()).reshape(shape), padding=padding)
    return blurred[0, 0]


def _scale(image: Tensor) -> Tensor:
    """Scale as `neurobento.preprocessing.finder_grid.scaled` does, from a part of the voxels."""
    inside = image[image > 1e-4][::7]
    if not len(inside):
        return image
    return (image / inside.quantile(0.995).clamp(min=1e-6)).clamp(0, 1)
