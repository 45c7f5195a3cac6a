"""What the comparison of clean-ups counts, on maps whose answer is known by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.labels import aal116
from training.parcellation.cleanup import CLEANUPS
from training.studies.compare_cleanups import compare, main

EDGE = 4
LAST = aal116()[116].name
WHOLE = 116 * EDGE**3


def cubes() -> Any:
    """All 116 regions as cubes of 64 voxels, side by side in a background of one voxel."""
    places = np.zeros((5, 5, 5), np.uint8)
    places.ravel()[:116] = np.arange(1, 117)
    for axis in range(3):
        places = places.repeat(EDGE, axis)
    return np.pad(places, 1)


def with_a_plate() -> Any:
    """The last region only one voxel thick: 16 of its 64 voxels."""
    labels = cubes()
    inside = np.argwhere(labels == 116)
    labels[labels == 116] = 0
    for x, y, z in inside[inside[:, 0] == inside[0, 0]]:
        labels[x, y, z] = 116
    return labels


def with_an_island() -> Any:
    """One voxel of the last region in the middle of the first."""
    labels = cubes()
    labels[2, 2, 2] = 116
    return labels


@pytest.mark.parametrize("how", CLEANUPS)
def test_clean_labels_lose_nothing_and_the_callers_are_not_modified(how: Any) -> None:
    effect = {"changed_percent": 0.0, "removed_percent": 0.0, "regions_lost": [], "islands": 0}
    assert compare(cubes(), how) == effect
    labels = with_an_island()
    compare(labels, how)
    assert np.array_equal(labels, with_an_island())


def test_opening_removes_a_plate_and_its_region() -> None:
    effect = compare(with_a_plate(), "report")
    expected = 100 * 16 / (WHOLE - 48)
    assert effect["removed_percent"] == pytest.approx(expected)
    assert effect["changed_percent"] == pytest.approx(expected)
    assert effect["regions_lost"] == [LAST]


@pytest.mark.parametrize("how", ["gentle", "none"])
def test_the_others_keep_a_plate(how: Any) -> None:
    effect = compare(with_a_plate(), how)
    assert (effect["changed_percent"], effect["regions_lost"]) == (0.0, [])


def test_gentle_changes_an_island_and_removes_nothing_and_without_a_clean_up_it_counts() -> None:
    effect = compare(with_an_island(), "gentle")
    assert effect["changed_percent"] == pytest.approx(100 / WHOLE)
    assert (effect["removed_percent"], effect["islands"]) == (0.0, 0)
    assert compare(with_an_island(), "none")["islands"] == 1


@pytest.mark.parametrize("how", CLEANUPS)
def test_a_region_that_registration_lost_is_not_lost_by_a_clean_up(how: Any) -> None:
    labels = cubes()
    labels[labels == 116] = 0
    assert compare(labels, how)["regions_lost"] == []


def test_the_command_writes_the_mean_over_the_registered_maps_alone(tmp_path: Path) -> None:
    for name, labels in (("a", with_a_plate()), ("b", with_an_island()), ("c", cubes())):
        image = nib.Nifti1Image(labels, np.eye(4))
        nib.save(image, tmp_path / f"{name}_registered.nii.gz")
        nib.save(image, tmp_path / f"{name}_labels.nii.gz")
    output = tmp_path / "results" / "cleanup.json"
    assert main([str(tmp_path), "--pattern", "[ab]", "-o", str(output)]) == 0
    summary = json.loads(output.read_text())
    assert set(summary) == {"scans", *CLEANUPS}
    assert summary["scans"] == 2
    assert summary["none"] == {
        "changed_percent": 0.0,
        "removed_percent": 0.0,
        "islands": 0.5,
        "regions_lost": {},
    }
    assert summary["gentle"]["changed_percent"] == round(100 / WHOLE / 2, 3)
    assert summary["gentle"]["islands"] == 0
    # no cube of 3 fits beside a hole in the middle of a cube of 4: opening loses that region too
    assert summary["report"]["regions_lost"] == {aal116()[1].name: 1, LAST: 1}
