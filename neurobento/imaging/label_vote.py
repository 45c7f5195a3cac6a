"""Carry labels to another grid by a vote of the eight nearest voxels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import matching_axes

__all__ = ["vote"]

SLAB_VOXELS = 2**20
"""Voxels of the target that are worked on at a time, which bounds the memory."""

CHUNK_VOXELS = 2**16
"""Voxels that vote at a time, which stay in the processor's cache."""

CORNERS = tuple(itertools.product((0, 1), repeat=3))

LabelMap = NDArray[np.uint8]
Affine = NDArray[np.float64]
Indices = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]
Fractions = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def vote(labels: LabelMap, source_from_target: Affine, shape: tuple[int, int, int]) -> LabelMap:
    """Return the labels (X, Y, Z) on a target grid of another shape, zero outside the source.

    Each of the eight voxels around a place votes for its label with its trilinear weight. Borders
    are as smooth as if each label's share had been interpolated and the largest one taken, at a
    part of the cost; nearest neighbours would repeat the steps of the source's voxels.
    """
    # a border of background, so that every place within half a voxel has eight neighbours
    padded = np.pad(labels, 1)
    is_mixed = _mixed_cells(padded)
    target = np.zeros(shape, np.uint8)
    rows = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    axes = matching_axes(source_from_target)
    for start in range(0, shape[0], rows):
        slab = target[start : start + rows]
        if axes is None:
            index, fraction, inside = _tilted_places(source_from_target, start, slab.shape, labels)
        else:
            index, fraction, inside = _straight_places(
                source_from_target, start, slab.shape, labels, axes
            )
        _fill(slab, padded, is_mixed, index, fraction, inside)
    return target


def _mixed_cells(padded: LabelMap) -> NDArray[np.bool_]:
    """Return the cells of eight voxels that do not agree."""
    first = padded[:-1, :-1, :-1]
    mixed = np.zeros(first.shape, bool)
    for a, b, c in CORNERS[1:]:
        x, y, z = (slice(i, i + n) for i, n in zip((a, b, c), first.shape, strict=True))
        mixed |= padded[x, y, z] != first
    return mixed


def _fill(
    slab: LabelMap,
    padded: LabelMap,
    is_mixed: NDArray[np.bool_],
    index: Indices,
    fraction: Fractions,
    inside: NDArray[np.bool_],
) -> None:
    """Fill a slab of the target: by one voxel where all eight agree, else by their vote."""
    np.copyto(slab, padded[index], where=inside)
    places = np.flatnonzero((is_mixed[index] & inside).ravel())
    if not len(places):
        return
    flat = slab.reshape(-1)
    shape = slab.shape
    own_index = [np.broadcast_to(part, shape).reshape(-1) for part in index]
    own_fraction = [np.broadcast_to(part, shape).reshape(-1) for part in fraction]
    for chunk in _chunks(places):
        i, j, k = (part[chunk] for part in own_index)
        f, g, h = (part[chunk] for part in own_fraction)
        corners = [padded[i + a, j + b, k + c] for a, b, c in CORNERS]
        weights = [
            (f if a else 1 - f) * (g if b else 1 - g) * (h if c else 1 - h) for a, b, c in CORNERS
        ]
        flat[chunk] = _winners(corners, weights)


def _winners(labels: list[LabelMap], weights: list[NDArray[np.float32]]) -> LabelMap:
    """Return the label with the largest sum of weights, for each place."""
    sums = [weight.copy() for weight in weights]
    for a, b in itertools.combinations(range(len(labels)), 2):
        same = labels[a] == labels[b]
        sums[a] += weights[b] * same
        sums[b] += weights[a] * same
    best_label, best = labels[0].copy(), sums[0]
    for label, total in zip(labels[1:], sums[1:], strict=True):
        better = total > best
        np.copyto(best_label, label, where=better)
        best = np.maximum(best, total)
    return best_label


def _chunks(places: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    for start in range(0, len(places), CHUNK_VOXELS):
        yield places[start : start + CHUNK_VOXELS]


def _straight_places(
    source_from_target: Affine,
    start: int,
    shape: tuple[int, ...],
    labels: LabelMap,
    axes: tuple[int, int, int],
) -> tuple[Indices, Fractions, NDArray[np.bool_]]:
    """Return cells and fractions by source axis, one list for each, to be broadcast."""
    index, fraction, inside = [None] * 3, [None] * 3, np.ones((1, 1, 1), bool)
    for target_axis, source_axis in enumerate(axes):
        row = source_from_target[source_axis]
        first = start if target_axis == 0 else 0
        places = row[target_axis] * (first + np.arange(shape[target_axis])) + row[3]
        form = [1, 1, 1]
        form[target_axis] = -1
        cell, part, is_inside = _cells(places.reshape(form), labels.shape[source_axis])
        index[source_axis], fraction[source_axis] = cell, part  # type: ignore[call-overload]
        inside = inside & is_inside
    return tuple(index), tuple(fraction), inside  # type: ignore[return-value]


def _tilted_places(
    source_from_target: Affine, start: int, shape: tuple[int, ...], labels: LabelMap
) -> tuple[Indices, Fractions, NDArray[np.bool_]]:
    """Return each voxel's cell and fractions by source axis."""
    x, y, z = (np.arange(n, dtype=np.float64) for n in shape)
    places = np.ix_(x + start, y, z)
    index, fraction, inside = [], [], np.ones((1, 1, 1), bool)
    for row, size in zip(source_from_target[:3], labels.shape, strict=True):
        along = row[0] * places[0] + row[1] * places[1] + row[2] * places[2] + row[3]
        cell, part, is_inside = _cells(along, size)
        index.append(cell)
        fraction.append(part)
        inside = inside & is_inside
    return tuple(index), tuple(fraction), inside  # type: ignore[return-value]


def _cells(
    places: NDArray[np.float64], size: int
) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.bool_]]:
    """Return cells of the padded source, the way through them, and which places are inside it."""
    inside = (places >= -0.5) & (places < size - 0.5)
    # the padding moves every voxel by one
    cells = np.clip(np.floor(places), -1, size - 1)
    return (cells + 1).astype(np.intp), (places - cells).astype(np.float32), inside
