"""Laws of region volumes; the reference shares are a fake."""

from __future__ import annotations

import csv
import math
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.labels import aal116
from neurobento.parcellation.volumetry import RegionVolume, brain_warnings, measure, volumes_tsv

LEFT, RIGHT, MIDLINE = 1, 2, 109
"""Precentral_L, Precentral_R, Vermis_1_2."""

VOLUME_1_MM3 = np.eye(4)


@pytest.fixture(autouse=True)
def shares(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[float, float]]:
    """Mean and SD of each share in percent, to be changed by a test; nothing is flagged."""
    table = dict.fromkeys(range(1, 117), (50.0, 100.0))
    monkeypatch.setattr("neurobento.parcellation.volumetry._reference_shares", lambda: table)
    return table


def labels_with(**voxels: int) -> Any:
    """(n, 1, 1) labels with so many voxels of each class, `c3=10` is ten of class 3."""
    values = [np.full(count, int(name[1:]), np.uint8) for name, count in voxels.items()]
    return np.concatenate(values).reshape(-1, 1, 1)


def volume_of(index: int, labels: Any, voxel_to_ras: Any = VOLUME_1_MM3) -> RegionVolume:
    return measure(labels, voxel_to_ras)[index - 1]


def evenly(total_ml: float) -> tuple[RegionVolume, ...]:
    """All 116 regions of one size that add up to a volume."""
    labels = np.repeat(np.arange(1, 117, dtype=np.uint8), 10).reshape(-1, 2, 1)
    edge_mm = (1000 * total_ml / labels.size) ** (1 / 3)
    return measure(labels, np.diag([edge_mm, edge_mm, edge_mm, 1]))


@pytest.mark.parametrize("sizes_mm", [(1.0, 1.0, 1.0), (0.8, 1.5, 2.0), (2.4, 0.7, 1.1)])
@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("tilt_rad", [0.0, 0.4])
def test_a_digital_spheres_volume_is_a_spheres(
    sizes_mm: tuple[float, float, float], flip: int, tilt_rad: float
) -> None:
    radius_mm = 20.0
    sizes = np.array(sizes_mm)
    shape = (2 * radius_mm / sizes).astype(int) + 4
    centre = (shape - 1) / 2 + 0.2
    index = np.indices(shape)
    offset = (index - centre.reshape(3, 1, 1, 1)) * sizes.reshape(3, 1, 1, 1)
    labels = np.where((offset**2).sum(axis=0) < radius_mm**2, 7, 0).astype(np.uint8)
    rotation = nib.eulerangles.euler2mat(z=tilt_rad, y=tilt_rad / 2, x=-tilt_rad)
    affine = nib.affines.from_matvec(rotation @ np.diag(sizes * [flip, 1, 1]), [5, -6, 7])
    sphere = 4 / 3 * math.pi * radius_mm**3
    assert volume_of(7, labels, affine).volume_mm3 == pytest.approx(sphere, rel=0.01)


def test_all_regions_are_measured_in_order_and_the_callers_labels_not_modified() -> None:
    """Background alone has no volumes and no shares."""
    labels = labels_with(c3=5)
    labels.setflags(write=False)
    before = labels.copy()
    volumes = measure(labels, VOLUME_1_MM3)
    assert np.array_equal(labels, before)
    assert [v.region for v in volumes] == list(aal116())
    assert [v.voxels for v in volumes] == [0, 0, 5] + 113 * [0]
    volumes = measure(np.zeros((4, 5, 6), np.uint8), VOLUME_1_MM3)
    assert {(v.voxels, v.volume_mm3, v.share_percent, v.flag) for v in volumes} == {
        (0, 0.0, 0.0, "missing")
    }


def test_shares_are_of_the_labelled_voxels_and_add_up_to_100() -> None:
    assert volume_of(5, labels_with(c0=900, c5=25, c6=75)).share_percent == 25
    random = np.random.default_rng(0)
    labels = random.integers(0, 117, (20, 21, 22)).astype(np.uint8)
    labels[:10] = 0
    volumes = measure(labels, np.diag([2.0, 3.0, 0.5, 1.0]))
    assert sum(v.share_percent for v in volumes) == pytest.approx(100)
    assert sum(v.voxels for v in volumes) == np.count_nonzero(labels)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [(30, 10, 100.0), (10, 30, -100.0), (20, 20, 0.0), (7, 0, 200.0), (0, 7, -200.0)],
)
def test_asymmetry_is_the_excess_of_the_left_over_the_mean_of_both(
    left: int, right: int, expected: float
) -> None:
    volumes = measure(labels_with(c1=left, c2=right, c3=1), VOLUME_1_MM3)
    assert volumes[LEFT - 1].asymmetry_percent == expected
    assert volumes[RIGHT - 1].asymmetry_percent == expected


def test_neither_the_midline_nor_two_missing_sides_have_an_asymmetry() -> None:
    assert volume_of(MIDLINE, labels_with(c109=9)).asymmetry_percent is None
    assert volume_of(LEFT, labels_with(c3=9)).asymmetry_percent is None


def test_flags_begin_beyond_four_standard_deviations(
    shares: dict[int, tuple[float, float]],
) -> None:
    """A missing region is missing, not small."""
    shares.update(dict.fromkeys((1, 2, 3, 4), (10.0, 1.0)))
    volumes = measure(labels_with(c1=59, c2=60, c3=140, c4=141, c5=600), VOLUME_1_MM3)
    assert [v.flag for v in volumes[:6]] == ["small", "ok", "ok", "large", "ok", "missing"]
    assert volume_of(1, labels_with(c2=5)).flag == "missing"


def test_an_implausible_total_is_warned_of_with_its_millilitres() -> None:
    for total_ml in (501, 1200, 1999):
        assert brain_warnings(evenly(total_ml)) == []
    for total_ml in (3, 499, 2001):
        (warning,) = brain_warnings(evenly(total_ml))
        assert f"{total_ml} ml" in warning
        assert "500 to 2000 ml" in warning


def test_each_kind_of_flag_is_one_warning_that_names_its_regions(
    shares: dict[int, tuple[float, float]],
) -> None:
    shares.update({1: (10.0, 1.0), 2: (1e-9, 0.0), 3: (10.0, 1.0)})
    labels = np.repeat(np.arange(1, 115, dtype=np.uint8), 1000).reshape(-1, 2, 2)
    volumes = measure(labels, np.diag([2.2, 2.2, 2.2, 1.0]))
    assert brain_warnings(volumes) == [
        "2 region(s) missing: Vermis_9, Vermis_10",
        "2 region(s) small: Precentral_L, Frontal_Sup_L",
        "1 region(s) large: Precentral_R",
    ]


def test_the_table_parses_into_the_same_volumes() -> None:
    labels = labels_with(c1=30, c2=10, c109=7)
    volumes = measure(labels, np.diag([1.5, 1.0, 1.0, 1.0]))
    rows = list(csv.DictReader(volumes_tsv(volumes).splitlines(), delimiter="\t"))
    assert len(rows) == 116
    for row, volume in zip(rows, volumes, strict=True):
        assert int(row["index"]) == volume.region.class_index
        assert (row["name"], row["side"]) == (volume.region.name, volume.region.side)
        assert int(row["voxels"]) == volume.voxels
        assert float(row["volume_mm3"]) == pytest.approx(volume.volume_mm3, abs=0.05)
        assert float(row["share_percent"]) == pytest.approx(volume.share_percent, abs=5e-5)
        assert row["plausibility"] == volume.flag
    assert rows[LEFT - 1]["asymmetry_percent"] == "100.00"
    assert rows[MIDLINE - 1]["asymmetry_percent"] == "n/a"
    assert rows[4]["asymmetry_percent"] == "n/a"
