"""The picture: it decodes, and the subject's left is on its left."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from neurobento.parcellation.figures import overlay_png

CORONAL, AXIAL, SAGITTAL = range(3)
STORAGES = ("RAS", "LAS", "LIA", "PSR")
LEFT_FRONT, RIGHT_BACK = 1, 2
"""Blobs of the phantom: 32 mm to the left and 22 mm to the front of the middle; 30 mm to the
right and 30 mm to the back."""


def decoded(png: bytes) -> Any:
    """(height, width, 3) in [0, 1]."""
    from matplotlib.image import imread

    return imread(io.BytesIO(png), format="png")[..., :3]


def panel(picture: Any, index: int) -> Any:
    """One third of the picture: coronal, axial, sagittal from the left."""
    width = picture.shape[1] // 3
    return picture[:, index * width : (index + 1) * width]


def coloured(picture: Any) -> Any:
    """Where a pixel is not grey: a region lies there."""
    return picture.max(axis=2) - picture.min(axis=2) > 0.1


@functools.cache
def overlay(phantom: Any, blob: int) -> Any:
    """The picture of one of the phantom's regions, drawn once for all tests."""
    only = np.where(phantom.labels == blob, phantom.labels, 0).astype(np.uint8)
    picture = decoded(overlay_png(phantom.image, only, phantom.affine))
    picture.setflags(write=False)
    return picture


@pytest.fixture(params=STORAGES)
def stored(request: pytest.FixtureRequest, phantom_on: Callable[..., Any]) -> Any:
    """The phantom as different scanners store it, its middle in the middle of the grid."""
    return phantom_on(request.param, centre_mm=(0.0, 0.0, 0.0))


def halves(region: Any) -> tuple[int, int]:
    """Coloured pixels left and right of the middle."""
    middle = region.shape[1] // 2
    return int(region[:, :middle].sum()), int(region[:, middle:].sum())


def test_left_is_on_the_left_and_the_sagittal_plane_looks_to_the_right(stored: Any) -> None:
    for index in (CORONAL, AXIAL):
        left, right = halves(coloured(panel(overlay(stored, LEFT_FRONT), index)))
        assert left > 100 and right == 0
        left, right = halves(coloured(panel(overlay(stored, RIGHT_BACK), index)))
        assert left == 0 and right > 100
    behind, before = halves(coloured(panel(overlay(stored, LEFT_FRONT), SAGITTAL)))
    assert before > 100 and behind == 0
    behind, before = halves(coloured(panel(overlay(stored, RIGHT_BACK), SAGITTAL)))
    assert behind > 100 and before == 0


def test_the_front_is_at_the_top_of_the_axial_plane(stored: Any) -> None:
    for blob, at_top in ((LEFT_FRONT, True), (RIGHT_BACK, False)):
        rows = np.flatnonzero(coloured(panel(overlay(stored, blob), AXIAL)).any(axis=1))
        middle = overlay(stored, blob).shape[0] / 2
        assert bool(rows.mean() < middle) is at_top


def test_voxels_of_unequal_edges_keep_a_sphere_round(phantom_on: Callable[..., Any]) -> None:
    flat = phantom_on("PSR", sizes_mm=(2.0, 5.0, 3.0))
    for index in (CORONAL, AXIAL, SAGITTAL):
        region = coloured(panel(overlay(flat, LEFT_FRONT), index))
        height, width = (np.ptp(np.flatnonzero(region.any(axis=a))) + 1 for a in (1, 0))
        assert height == pytest.approx(width, rel=0.25)


def test_a_region_has_the_colour_of_the_table(stored: Any) -> None:
    """The hue of the table's colour, blended with grey."""
    from matplotlib.colors import rgb_to_hsv

    from neurobento.labels import aal116

    picture = panel(overlay(stored, LEFT_FRONT), AXIAL)
    shown = picture[coloured(picture)]
    hue = np.median(rgb_to_hsv(shown)[:, 0])
    expected = rgb_to_hsv(np.array(aal116()[LEFT_FRONT].rgb) / 255)[0]
    assert abs(hue - expected) < 0.03


def test_a_scan_is_drawn_in_grey_without_labels_and_without_positive_voxels_too(
    phantom: Any,
) -> None:
    nothing = np.zeros(phantom.shape, dtype=np.uint8)
    picture = decoded(overlay_png(phantom.image, nothing, phantom.affine))
    assert not coloured(picture).any()
    assert (picture > 0.5).any()
    dark = -np.ones(phantom.shape, dtype=np.float32)
    assert coloured(decoded(overlay_png(dark, phantom.labels, phantom.affine))).any()


def test_the_same_scan_gives_the_same_picture_and_its_arrays_stay_as_they_are(phantom: Any) -> None:
    image, labels = phantom.image.copy(), phantom.labels.copy()
    assert len({overlay_png(image, labels, phantom.affine) for _ in range(2)}) == 1
    assert np.array_equal(image, phantom.image)
    assert np.array_equal(labels, phantom.labels)
