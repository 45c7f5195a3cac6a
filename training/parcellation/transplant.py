"""The brain of a scan without skull in the head of another: its skull, face and fluid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurobento.cohort.scans import find_scan_files
from neurobento.imaging.resampling import resample
from neurobento.imaging.scan import Scan, read_scan
from neurobento.preprocessing.deepbet_mask import deepbet_mask
from neurobento.preprocessing.signal import positive_signal

__all__ = ["Donor", "grown_grid", "read_donors", "transplant"]

ROOM_MM = (25.0, 30.0, 20.0)
"""Room for the head on both sides of the brain along R, A and S."""

NECK_MM = 50.0
"""Room below the brain, besides."""

HELD = 0.95
"""Share of the brain that the donor's brain must hold."""

FLUID_QUANTILE = 0.05
"""Place of the fluid's intensity among those of the donor's brain."""

Affine = NDArray[np.float64]
Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Donor:
    """A head and its brain."""

    scan: Scan
    brain: Mask


def read_donors(paths: Sequence[Path]) -> list[Donor]:
    """Read heads with skull, in order of name, with their brains by deepbet."""
    scans = [read_scan(path) for path in find_scan_files(paths)]
    return [Donor(scan, deepbet_mask(scan)) for scan in scans]


def grown_grid(scan: Scan, brain: Mask) -> tuple[Affine, tuple[int, int, int], tuple[int, ...]]:
    """Return the affine and shape of a grid with room for a head, and the scan's corner in it."""
    size = np.array(scan.voxel_sizes_mm)
    matrix = scan.voxel_to_ras[:3, :3]
    # the world's axis that each of the scan's axes runs along, and whether it runs backwards
    along = np.abs(matrix).argmax(axis=0)
    backwards = matrix[along, np.arange(3)] < 0
    low, high = np.zeros(3, int), np.zeros(3, int)
    for axis in range(3):
        inside = np.flatnonzero(brain.any(axis=tuple(i for i in range(3) if i != axis)))
        below = above = ROOM_MM[along[axis]]
        if along[axis] == 2:
            below += NECK_MM
        first, last = (above, below) if backwards[axis] else (below, above)
        low[axis] = max(0, int(np.ceil(first / size[axis])) - inside[0])
        high[axis] = max(
            0, int(np.ceil(last / size[axis])) - (scan.shape[axis] - 1 - int(inside[-1]))
        )
    affine = scan.voxel_to_ras.copy()
    affine[:3, 3] -= matrix @ low
    x, y, z = (int(n) for n in np.array(scan.shape) + low + high)
    return affine, (x, y, z), tuple(low.tolist())


def transplant(
    scan: Scan, donor: Donor, random: np.random.Generator, held: float = HELD
) -> tuple[Array, Affine]:
    """Return the scan's brain in the donor's head, and the affine of the grown grid.

    The donor is scaled along the world's axes until its brain holds this share of the scan's. The
    grid grows by whole voxels, so that labels of the scan's brain are labels of the head's.
    """
    from scipy.ndimage import binary_fill_holes, gaussian_filter

    signal = positive_signal(scan.array)
    brain = np.asarray(binary_fill_holes(signal > 0))
    affine, shape, corner = grown_grid(scan, brain)
    box = tuple(slice(c, c + n) for c, n in zip(corner, scan.shape, strict=True))
    image, inside = np.zeros(shape, np.float32), np.zeros(shape, bool)
    image[box], inside[box] = signal, brain

    donor_from_world = _fit(_spread(inside, affine), _spread(donor.brain, donor.scan.voxel_to_ras))
    head, cavity = _donor_around(inside, affine, donor, donor_from_world, held)
    # the same white matter in both
    theirs = positive_signal(donor.scan.array)[donor.brain]
    image *= float(np.percentile(theirs, 90) / np.percentile(image[inside], 90))
    fluid, noise = np.quantile(theirs, FLUID_QUANTILE), 0.1 * np.quantile(theirs, FLUID_QUANTILE)
    filled = np.abs(fluid + noise * random.standard_normal(shape, dtype=np.float32))
    around = np.where(cavity, filled, head)
    # the brain itself is unchanged; what surrounds it is blended over one voxel
    share = np.where(inside, 1, gaussian_filter(inside.astype(np.float32), 0.6))
    return np.asarray(share * image + (1 - share) * around, np.float32), affine


def _donor_around(
    inside: Mask, affine: Affine, donor: Donor, donor_from_world: Affine, held: float
) -> tuple[Array, Mask]:
    """Return the donor's head and brain on a grid, large enough that they hold the brain."""
    shape = inside.shape
    centre = np.eye(4)
    centre[:3, 3] = (affine @ [*np.argwhere(inside).mean(axis=0), 1])[:3]
    share = np.zeros(shape, np.float32)
    for larger in np.arange(1.0, 1.2, 0.02):
        shrink = centre @ np.diag([1 / larger] * 3 + [1]) @ np.linalg.inv(centre)
        grid = donor_from_world @ shrink @ affine
        share = resample(donor.brain.astype(np.float32), donor.scan.voxel_to_ras, grid, shape)
        if (share[inside] > 0.5).mean() >= held:
            break
    head = resample(positive_signal(donor.scan.array), donor.scan.voxel_to_ras, grid, shape)
    return head, share > 0.5


def _spread(mask: Mask, affine: Affine) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a mask's centre of mass and its standard deviation along R, A and S, in mm."""
    points = np.argwhere(mask)[::17] @ affine[:3, :3].T + affine[:3, 3]
    return points.mean(axis=0), points.std(axis=0)


def _fit(
    own: tuple[NDArray[np.float64], NDArray[np.float64]],
    other: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Affine:
    """Return the map of worlds (4, 4) that takes one centre and spread to the other."""
    scale = other[1] / own[1]
    affine = np.diag([*scale, 1.0])
    affine[:3, 3] = other[0] - scale * own[0]
    return affine
