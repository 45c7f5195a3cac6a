"""Step 2: N4 bias field correction inside the brain.

The field is ANTs' up to rounding, that of ITK's N4BiasFieldCorrection,
BSplineScatteredDataPointSetToImage and ShrinkImage (Tustison et al., "N4ITK", IEEE Trans Med
Imaging 2010). B-splines on a grid are separable, so it is fitted one axis at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from neurobento.preprocessing.ants_image import geometry

__all__ = ["correct_bias"]

SHRINK_FACTOR = 4
"""The field is estimated on every fourth voxel (ANTs' default)."""

LEAST_SAMPLES = 4
"""Fewest samples along a thin axis, one per control point of the first level; ANTs keeps fewer."""

FITTING_LEVELS = 4
MAX_ITERATIONS = 50
TOLERANCE = 1e-7
"""ANTs' defaults; a level ends when the coefficient of variation falls below the tolerance."""

CONTROL_POINTS = 4
"""Per axis at the first level: one cubic span. Each further level halves the spans."""

SMALLEST_WEIGHT = 0.1 * float(np.finfo(np.float32).eps)
"""A control point with less weight stays zero (itk::Math::AlmostEquals)."""

HISTOGRAM_BINS = 200
PADDED_BINS = 512
FIELD_FWHM = 0.15
WIENER_NOISE = 0.01
"""N4's defaults for sharpening the histogram of logarithms as N3 does."""

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Box = tuple[slice, ...]
Real = TypeVar("Real", np.float32, np.float64)


def correct_bias(
    array: NDArray[np.float32], brain: Mask, voxel_to_ras: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the scan divided by its bias field, zero outside the brain and where not finite.

    The field is estimated inside the mask only, because air and skull would distort it.
    """
    inside = brain & np.isfinite(array)
    corrected = np.zeros(array.shape, dtype=np.float32)
    if inside.any():
        box, samples = _bounding_box(inside), _samples(array.shape, voxel_to_ras)
        lattice = _log_field(array[samples], inside[samples]).astype(np.float32)
        bases = _bases(array.shape, box, len(lattice))
        log_field = _along([basis.astype(np.float32) for basis in bases], lattice)
        np.divide(array[box], np.exp(log_field), out=corrected[box], where=inside[box])
    return np.where(np.isfinite(corrected), corrected, 0)


def _bounding_box(mask: Mask) -> Box:
    return tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(mask))


def _samples(shape: tuple[int, ...], voxel_to_ras: NDArray[np.float64]) -> Box:
    """Return the voxels that itk::ShrinkImageFilter takes: every fourth, with equal margins."""
    factors = np.array([max(1, min(SHRINK_FACTOR, n // LEAST_SAMPLES)) for n in shape])
    counts = np.array(shape) // factors
    origin, spacing, direction = geometry(voxel_to_ras)
    index_to_point = direction * spacing
    # If the margins cannot be equal, ITK rounds a distance in world space, where the last bits of
    # the geometry decide; so this follows ITK's arithmetic.
    centre = _times(index_to_point, (np.array(shape) - 1) / 2) + origin
    shrunk_centre = _times(direction * (spacing * factors), (counts - 1) / 2) + origin
    shrunk_origin = origin + (centre - shrunk_centre)
    # Use pinv, not inv: ITK inverts by singular values too.
    inverse = np.asarray(np.linalg.pinv(index_to_point), np.float64)
    index = _times(inverse, shrunk_origin - origin)
    first = np.maximum(np.floor(index + 0.5).astype(int), 0)
    ends = first + (counts - 1) * factors + 1
    return tuple(slice(*axis) for axis in zip(first, ends, factors, strict=True))


def _times(matrix: Array, vector: Array) -> Array:
    """Return the product, summed in ITK's order."""
    return np.asarray((matrix * vector).sum(axis=1))


def _log_field(image: NDArray[np.float32], mask: Mask) -> Array:
    """Return the control points of the field's logarithm, (11, 11, 11) over the whole grid."""
    lattice = np.zeros((CONTROL_POINTS,) * 3)
    observed = image[mask].astype(np.float64)
    # ITK leaves values without a logarithm unchanged.
    np.log(observed, out=observed, where=observed > 0)
    for level in range(FITTING_LEVELS):
        if level > 0:
            lattice = _along([_refinement(len(lattice))] * 3, lattice)
        if observed.size:
            lattice = _fit_level(lattice, observed, _Splines(mask, len(lattice)))
    return lattice


def _fit_level(lattice: Array, observed: Array, splines: _Splines) -> Array:
    """Return the control points after one level of N4; `observed` are logarithms, (n,)."""
    field = splines.field(lattice)
    for _ in range(MAX_ITERATIONS):
        corrected = observed - field
        lattice = lattice + splines.fit(corrected - _sharpen(corrected))
        previous, field = field, splines.field(lattice)
        change = np.exp(previous - field)
        if change.std() <= TOLERANCE * change.mean():
            break
    return lattice


def _sharpen(values: Array) -> Array:
    """Return each value's expectation after deblurring the histogram, (n,).

    Wiener deconvolution with a Gaussian, then E(true | seen): Sled et al., IEEE Trans Med Imaging
    1998.
    """
    low = float(values.min())
    width = (float(values.max()) - low) / (HISTOGRAM_BINS - 1)
    if width == 0:
        return values
    position = (values - low) / width
    below = np.minimum(position.astype(np.intp), HISTOGRAM_BINS - 2)
    share = position - below
    counts = np.zeros(HISTOGRAM_BINS)
    counts += np.bincount(below, 1 - share, HISTOGRAM_BINS)
    counts += np.bincount(below + 1, share, HISTOGRAM_BINS)
    expected = _expectation(counts, low, width)
    return np.asarray(expected[below] * (1 - share) + expected[below + 1] * share)


def _expectation(counts: Array, low: float, width: float) -> Array:
    """Return E(true | seen) at every bin, (bins,), for bins from `low` in steps of `width`."""
    margin = (PADDED_BINS - HISTOGRAM_BINS) // 2
    bins = np.arange(PADDED_BINS)
    fwhm = FIELD_FWHM / width
    distance = np.minimum(bins, PADDED_BINS - bins)
    peak = 2 * np.sqrt(np.log(2) / np.pi) / fwhm
    blur = np.fft.rfft(peak * np.exp(-4 * np.log(2) * (distance / fwhm) ** 2)).real
    seen = np.fft.rfft(np.pad(counts, (margin, PADDED_BINS - HISTOGRAM_BINS - margin)))
    true = np.maximum(np.fft.irfft(seen * blur / (blur**2 + WIENER_NOISE), PADDED_BINS), 0)
    value = low + (bins - margin) * width
    total, weight = np.fft.irfft(np.fft.rfft([value * true, true]) * blur, PADDED_BINS)
    expected = np.zeros(PADDED_BINS)
    np.divide(total, weight, out=expected, where=weight != 0)
    return expected[margin : margin + HISTOGRAM_BINS]


class _Splines:
    """The cubic B-splines of one level at the samples inside a mask.

    Control points are means weighted by squares: Lee et al., IEEE Trans Vis Comput Graph 1997.
    """

    def __init__(self, mask: Mask, points: int) -> None:
        box = _bounding_box(mask)
        self._mask = mask[box]
        self._bases = _bases(mask.shape, box, points)
        self._cubes = [(b**3 / (b**2).sum(axis=1, keepdims=True)).T for b in self._bases]
        self._weight = _along([(b**2).T for b in self._bases], self._mask.astype(np.float64))

    def field(self, lattice: Array) -> Array:
        """Return the lattice's values at the samples, (n,)."""
        return np.asarray(_along(self._bases, lattice)[self._mask])

    def fit(self, values: Array) -> Array:
        """Return the lattice that approximates the samples' values, (n,)."""
        grid = np.zeros(self._mask.shape)
        grid[self._mask] = values
        proposed = _along(self._cubes, grid)
        fitted = np.zeros_like(proposed)
        np.divide(proposed, self._weight, out=fitted, where=self._weight > SMALLEST_WEIGHT)
        return fitted


def _bases(shape: tuple[int, ...], box: Box, points: int) -> list[Array]:
    """Return each axis's basis inside the box, (samples in the box, points)."""
    return [_basis(n, points)[part] for n, part in zip(shape, box, strict=True)]


def _basis(samples: int, points: int) -> Array:
    """Return the weight of each control point at each sample of an axis, (samples, points)."""
    position = np.arange(samples) * ((points - 3) / max(samples - 1, 1))
    distance = np.abs(position[:, None] - np.arange(points) + 1)
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, 2 / 3 - distance**2 + distance**3 / 2, far)


def _refinement(points: int) -> Array:
    """Return the matrix that halves the spans of the splines, (2 points - 3, points)."""
    matrix = np.zeros((2 * points - 3, points))
    for fine in range(len(matrix)):
        weights = [1 / 8, 3 / 4, 1 / 8] if fine % 2 else [1 / 2, 1 / 2]
        matrix[fine, fine // 2 : fine // 2 + len(weights)] = weights
    return matrix


def _along(matrices: Sequence[NDArray[Real]], array: NDArray[Real]) -> NDArray[Real]:
    """Multiply a 3D array by one matrix (out, in) along each axis."""
    for matrix in matrices:
        # Each product moves its axis to the end, so three products restore the order.
        array = np.asarray(np.tensordot(array, matrix, axes=(0, 1)), dtype=array.dtype)
    return array
