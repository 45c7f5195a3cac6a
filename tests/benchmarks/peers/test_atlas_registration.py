"""Registration takes the network's place, and its atlas must be there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from benchmarks.peers import atlas_registration
from benchmarks.peers.atlas_registration import find_atlas, parcellate_by_registration, register
from neurobento.errors import ConfigError
from neurobento.imaging.scan import NativeSpace, Scan

LANDMARK = 1
"""The phantom's blob that is bright in its image, 16 mm in radius."""


def test_a_missing_file_of_the_atlas_is_named(
    write_nifti: Callable[..., Path], phantom: Any
) -> None:
    folder = write_nifti(phantom.image, phantom.affine, name="ch2bet.nii.gz").parent
    with pytest.raises(ConfigError, match=r"no aal\.nii\.gz"):
        find_atlas(folder)
    write_nifti(phantom.labels, phantom.affine, name="aal.nii.gz")
    brain, labels = find_atlas(folder)
    np.testing.assert_array_equal(brain.array, phantom.image)
    np.testing.assert_array_equal(labels.array, phantom.labels)


def test_an_atlas_of_the_same_head_gives_its_own_labels(
    phantom_on: Callable[..., Any], dice: Callable[..., float]
) -> None:
    """The atlas lies 15 mm beside the scan and on another grid."""
    fixed, atlas = phantom_on("RAS", (4.0, 4.0, 4.0)), phantom_on("LAS", (3.5, 3.5, 3.5))
    beside = atlas.affine.copy()
    beside[0, 3] += 15
    space = NativeSpace(atlas.shape, beside, atlas.scan().space.header)
    scan, labels = Scan(atlas.image, space), Scan(atlas.labels.astype(np.float32), space)
    found = register(fixed.image, fixed.affine, (scan, labels))
    assert (found.shape, found.dtype) == (fixed.shape, np.uint8)
    assert dice(found, fixed.labels, LANDMARK) > 0.8


def test_registration_stands_where_the_network_does(
    known_labels: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = known_labels(5)
    image = labels / np.float32(116)
    monkeypatch.setattr(
        atlas_registration, "register", lambda image, *_: np.rint(image * 116).astype(np.uint8)
    )
    header = nib.Nifti1Image(labels, np.eye(4)).header
    scan = Scan(image, NativeSpace(labels.shape, np.eye(4), header))
    found = parcellate_by_registration(scan, "none", (scan, scan))
    assert list(found.seconds)[-3:] == ["register", "restore", "measure"]
    np.testing.assert_array_equal(found.labels, labels)
