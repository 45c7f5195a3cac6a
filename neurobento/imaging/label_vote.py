"""Carry labels to another grid by a vote of the eight nearest voxels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import matching_axes

__all__ = ["vote"]

CHUNK_VOXELS = 2**16
"""Voxels that are worked on at a time, which stay in the processor's cache."""

CORNERS = tuple(itertools.product((0, 1), repeat=3))

LabelMap = NDArray[np.uint8]
Affine = NDArray[np.float64]
Indices = NDArray[np.intp]
Fractions = NDArray[np.float32]


def vote(labels: LabelMap, source_from_target: Affine, shape: tuple[int, int, int]) -> LabelMap:
    """Return the labels (X, Y, Z) on a target grid of another shape, zero outside the source.

    Each of the eight voxels around a place votes for its label with its trilinear weight. Borders
    are as smooth as if each label's share had been interpolated and the largest one taken, at a
    part of the cost; nearest neighbours would repeat the steps of the source's voxels.
    """
    axes = matching_axes(source_from_target)
    # a border of background, so that every place within half a voxel has eight neighbours
    padded = np.pad(labels, 1)
    if axes is None:
        return _vote_tilted(padded, source_from_target, shape)
    rows = [source_from_target[source_axis] for source_axis in axes]
    places = [
        row[axis] * np.arange(n) + row[3]
        for axis, (n, row) in enumerate(zip(shape, rows, strict=True))
    ]
    return _vote_straight(padded.transpose(axes), places)


def _vote_straight(padded: LabelMap, places: Sequence[NDArray[np.float64]]) -> LabelMap:
    """Vote where each axis of the target has places of its own along one axis of the source."""
    cells, fractions, inside = zip(
        *(_cells(along, size - 2) for along, size in zip(places, padded.shape, strict=True)),
        strict=True,
    )
    # a voxel between no others needs no vote
    if not any(part.any() for part in fractions):
        target = _take(padded, cells)
    else:
        target = np.empty([len(part) for part in cells], np.uint8)
        is_mixed = _mixed_cells(padded)
        for row in range(len(target)):
            own = (cells[0][row : row + 1], cells[1], cells[2])
            target[row] = _take(padded, own)[0]
            mixed = np.flatnonzero(_take(is_mixed, own))
            flat = target[row].reshape(-1)
            for chunk in _chunks(mixed):
                y, z = np.divmod(chunk, target.shape[2])
                at = [np.full(len(chunk), cells[0][row]), cells[1][y], cells[2][z]]
                way = [np.full(len(chunk), fractions[0][row]), fractions[1][y], fractions[2][z]]
                flat[chunk] = _winners(padded, at, way)
    for axis, is_inside in enumerate(inside):
        target[(slice(None),) * axis + (~is_inside,)] = 0
    return target


def _vote_tilted(
    padded: LabelMap, source_from_target: Affine, shape: tuple[int, int, int]
) -> LabelMap:
    """Vote where the grids are tilted against each other."""
    target = np.zeros(shape, np.uint8)
    is_mixed = _mixed_cells(padded)
    y, z = np.ix_(np.arange(shape[1]), np.arange(shape[2]))
    for x, plane in enumerate(target):
        along = [
            _cells((row[0] * x + row[1] * y + row[2] * z + row[3]).ravel(), size - 2)
            for row, size in zip(source_from_target[:3], padded.shape, strict=True)
        ]
        inside = np.flatnonzero(along[0][2] & along[1][2] & along[2][2])
        cells = [cell[inside] for cell, _, _ in along]
        values = padded[tuple(cells)]
        mixed = np.flatnonzero(is_mixed[tuple(cells)])
        for chunk in _chunks(mixed):
            at = [cell[chunk] for cell in cells]
            way = [fraction[inside[chunk]] for _, fraction, _ in along]
            values[chunk] = _winners(padded, at, way)
        plane.reshape(-1)[inside] = values
    return target


def _cells(places: NDArray[np.float64], size: int) -> tuple[Indices, Fractions, NDArray[np.bool_]]:
    """Return cells of the padded source, the way through them, and which places are inside it."""
    inside = (places >= -0.5) & (places < size - 0.5)
    # the padding moves every voxel by one; what lies within rounding of a voxel is on it
    places = np.where(np.abs(places - np.rint(places)) < 1e-6, np.rint(places), places)
    cells = np.clip(np.floor(places), -1, size - 1)
    return (cells + 1).astype(np.intp), (places - cells).astype(np.float32), inside


def _take(values: NDArray[np.generic], index: Sequence[Indices]) -> NDArray[np.uint8]:
    """Return the values at every combination of three lists of indices."""
    taken = values[index[0]].take(index[1], axis=1).take(index[2], axis=2)
    return np.asarray(taken, np.uint8)


def _mixed_cells(padded: LabelMap) -> NDArray[np.bool_]:
    """Return the cells of eight voxels that do not agree."""
    first = padded[:-1, :-1, :-1]
    mixed = np.zeros(first.shape, bool)
    for a, b, c in CORNERS[1:]:
        x, y, z = (slice(i, i + n) for i, n in zip((a, b, c), first.shape, strict=True))
        mixed |= padded[x, y, z] != first
    return mixed


def _winners(padded: LabelMap, cells: Sequence[Indices], way: Sequence[Fractions]) -> LabelMap:
    """Return the label with the largest sum of weights among the corners of each cell."""
    i, j, k = cells
    labels = [padded[i + a, j + b, k + c] for a, b, c in CORNERS]
    f, g, h = way
    weights = [
        (f if a else 1 - f) * (g if b else 1 - g) * (h if c else 1 - h) for a, b, c in CORNERS
    ]
    sums = [weight.copy() for weight in weights]
    for a, b in itertools.combinations(range(len(labels)), 2):
        same = labels[a] == labels[b]
        sums[a] += weights[b] * same
        sums[b] += weights[a] * same
    best_label, best = labels[0], sums[0]
    for label, total in zip(labels[1:], sums[1:], strict=True):
        best_label = np.where(total > best, label, best_label)
        best = np.maximum(best, total)
    return best_label


def _chunks(places: Indices) -> Iterator[Indices]:
    for start in range(0, len(places), CHUNK_VOXELS):
        yield places[start : start + CHUNK_VOXELS]
