"""The table of structures is anatomy's, and Dice is measured where the truth lies."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from neurobento.errors import ConfigError
from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.labels import Region, aal116
from training.studies.independent_truth import (
    SCHEMES,
    Structure,
    Truth,
    find_truth,
    structures,
    truth_dice,
)

LABELS = ("aal", "aseg", "dkt", "muse")
SINGLE = ("hippocampus", "amygdala", "caudate", "putamen", "pallidum", "thalamus")
NOT_CORTEX = ("Hippocampus", "Amygdala", "Caudate", "Putamen", "Pallidum", "Thalamus")
NAMES = [
    *(f"{name} {side}" for name in (*SINGLE, "cortex") for side in ("left", "right")),
    "cerebellum both",
]

VOXEL_TO_RAS = np.array([[1.5, 0, 0, -70], [0, 1.5, 0, -100], [0, 0, 1.5, -60], [0, 0, 0, 1.0]])
"""Of the network grid here."""


def by_name() -> dict[str, Structure]:
    return {structure.name: structure for structure in structures()}


def regions(name: str) -> list[Region]:
    return [aal116()[index] for index in by_name()[name].values["aal"]]


# --- the table ---


def test_the_structures_are_these_and_every_atlas_label_is_a_class_index() -> None:
    assert [structure.name for structure in structures()] == NAMES
    assert all(tuple(s.values) == LABELS for s in structures())
    values = [v for s in structures() for v in s.values["aal"]]
    assert set(values) <= {region.class_index for region in aal116()}


@pytest.mark.parametrize("scheme", LABELS)
def test_no_label_belongs_to_two_structures(scheme: str) -> None:
    values = [v for s in structures() for v in s.values[scheme]]
    assert len(values) == len(set(values))
    assert min(values) > 0


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_deep_structure_is_the_region_of_its_name(name: str, side: str) -> None:
    found = [region.name for region in regions(f"{name} {side}")]
    assert found == [f"{name.capitalize()}_{side[0].upper()}"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_cortex_is_one_sides_regions_without_deep_ones_and_cerebellum(side: str) -> None:
    found = {region.name for region in regions(f"cortex {side}")}
    expected = {
        region.name
        for region in aal116()
        if region.side == side
        and region.lobe != "cerebellum"
        and not region.name.startswith(NOT_CORTEX)
    }
    assert found == expected and len(found) == 39


def test_the_cerebellum_is_the_whole_lobe() -> None:
    found = [region.class_index for region in regions("cerebellum both")]
    assert found == [r.class_index for r in aal116() if r.lobe == "cerebellum"]


@pytest.mark.parametrize("name", [*SINGLE, "cortex"])
def test_both_sides_are_mirror_images(name: str) -> None:
    left, right = (by_name()[f"{name} {side}"].values for side in ("left", "right"))
    assert [aal116().opposite(r) for r in regions(f"{name} left")] == regions(f"{name} right")
    # FreeSurfer's numbers for the right cortex are 1000 above the left's, MUSE's one below
    if name == "cortex":
        assert [v + 1000 for v in left["dkt"]] == list(right["dkt"])
    if name != "cortex":
        assert left["aseg"] == left["dkt"] and right["aseg"] == right["dkt"]
    assert [v - 1 for v in left["muse"]] == list(right["muse"])


# --- finding a file ---


@pytest.mark.parametrize(("suffix", "scheme"), SCHEMES.items())
def test_a_files_suffix_tells_its_scheme(
    tmp_path: Path, write_nifti: Callable[..., Path], suffix: str, scheme: str
) -> None:
    labels = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_nifti(labels, VOXEL_TO_RAS, f"sub-1_{suffix}.nii.gz")
    write_nifti(labels + 1, VOXEL_TO_RAS, f"sub-11_{suffix}.nii.gz")
    truth = find_truth(tmp_path, "sub-1")
    assert truth is not None
    assert truth.scheme == scheme
    assert truth.labels.dtype == np.int32
    assert np.array_equal(truth.labels, labels)
    assert np.array_equal(truth.voxel_to_ras, VOXEL_TO_RAS)


def test_labels_above_255_survive(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    write_nifti(np.full((2, 2, 2), 2035, np.int16), name="a_dkt_subcortical.nii.gz")
    truth = find_truth(tmp_path, "a")
    assert truth is not None and (truth.labels == 2035).all()


def test_a_scan_without_a_segmentation_has_no_truth(
    tmp_path: Path, write_nifti: Callable[..., Path]
) -> None:
    write_nifti(np.ones((2, 2, 2), np.uint8), name="sub-1_t1.nii.gz")
    write_nifti(np.ones((2, 2, 2), np.uint8), name="sub-2_aseg.nii.gz")
    assert find_truth(tmp_path, "sub-1") is None
    assert find_truth(tmp_path / "nowhere", "sub-2") is None


# --- Dice ---


def boxes() -> list[tuple[slice, ...]]:
    """A box of 8 x 10 x 10 voxels of the network grid for every structure; no two touch."""
    corners = [(x, y, z) for x in (6, 36, 70) for y in (9, 70) for z in (11, 50, 95)]
    return [
        (slice(x, x + 8), slice(y, y + 10), slice(z, z + 10)) for x, y, z in corners[: len(NAMES)]
    ]


def painted(scheme: str) -> NDArray[Any]:
    """Every structure's box, filled with all its labels in turn."""
    labels = np.zeros(NETWORK_SHAPE, np.int32)
    for structure, box in zip(structures(), boxes(), strict=True):
        labels[box] = np.resize(structure.values[scheme], labels[box].shape)
    return labels


def predicted() -> NDArray[np.uint8]:
    return painted("aal").astype(np.uint8)


def reoriented(scheme: str, codes: str, repeat: int = 1) -> Truth:
    """The same world on another grid: other axes, finer voxels, and a slab cut off."""
    fine = painted(scheme).repeat(repeat, 0).repeat(repeat, 1).repeat(repeat, 2)
    affine = VOXEL_TO_RAS.copy()
    affine[:3, :3] /= repeat
    affine[:3, 3] -= (repeat - 1) / 2 * np.diag(affine)[:3]
    # nothing lies in the first voxels
    fine = fine[4:]
    affine[:3, 3] += 4 * affine[:3, 0]
    turn = nib.orientations.axcodes2ornt(codes)
    image = nib.Nifti1Image(fine, affine).as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), turn)
    )
    return Truth(scheme, np.asarray(image.dataobj), image.affine)


GRIDS = [(scheme, axes, 1) for scheme in LABELS[1:] for axes in ("RAS", "LAS", "LIA", "ASL")]


@pytest.mark.parametrize(("scheme", "codes", "repeat"), [*GRIDS, ("dkt", "LIA", 2)])
def test_the_same_structures_on_another_grid_have_a_dice_of_one(
    scheme: str, codes: str, repeat: int
) -> None:
    truth = reoriented(scheme, codes, repeat)
    assert truth.labels.shape != NETWORK_SHAPE
    dice = truth_dice(truth, predicted(), VOXEL_TO_RAS)
    assert dice == dict.fromkeys(NAMES, 1.0)


def test_a_structure_half_as_large_has_two_thirds() -> None:
    labels = predicted()
    for x, *rest in boxes():
        labels[(slice(x.start, x.start + 4), *rest)] = 0
    dice = truth_dice(reoriented("aseg", "LAS"), labels, VOXEL_TO_RAS)
    assert dice == pytest.approx(dict.fromkeys(NAMES, 2 / 3))


def test_a_mirrored_answer_scores_next_to_nothing_and_an_empty_one_zero() -> None:
    """The boxes have no mirror twins, so left for right is caught."""
    dice = truth_dice(reoriented("dkt", "LAS"), predicted()[::-1], VOXEL_TO_RAS)
    assert max(dice.values()) < 1 / 3
    labels = np.zeros(NETWORK_SHAPE, np.uint8)
    dice = truth_dice(reoriented("muse", "RAS"), labels, VOXEL_TO_RAS)
    assert dice == dict.fromkeys(NAMES, 0.0)


def test_what_lies_outside_the_network_grid_counts_as_background() -> None:
    truth = reoriented("aseg", "RAS")
    wide = np.pad(truth.labels, 3)
    affine = truth.voxel_to_ras.copy()
    affine[:3, 3] -= 3 * np.diag(affine)[:3]
    wide[0] = by_name()["caudate left"].values["aseg"][0]
    dice = truth_dice(Truth("aseg", wide, affine), predicted(), VOXEL_TO_RAS)
    assert dice.pop("caudate left") == pytest.approx(2 * 800 / (1600 + wide[0].size))
    assert set(dice.values()) == {1.0}


@pytest.mark.parametrize(("named", "truly"), [("muse", "aseg"), ("dkt", "muse"), ("aseg", "dkt")])
def test_a_file_of_another_scheme_is_refused(named: str, truly: str) -> None:
    truth = reoriented(truly, "LAS")
    wrong = Truth(named, truth.labels, truth.voxel_to_ras)
    with pytest.raises(ConfigError, match=f"expected labels of the scheme {named}") as caught:
        truth_dice(wrong, predicted(), VOXEL_TO_RAS)
    assert caught.value.subject in NAMES


# --- real segmentations ---


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["oasistrt20_01", "ixi2mm_Subj01", "voxelmorph_test_scan"], ids=["dkt", "muse", "aseg"]
)
def test_left_structures_lie_left_and_all_are_there(name: str, shared: Path) -> None:
    truth = find_truth(shared / "data" / "labels", name)
    assert truth is not None
    x_mm = {
        s.name: nib.affines.apply_affine(
            truth.voxel_to_ras,
            np.argwhere(np.isin(truth.labels, s.values[truth.scheme])).mean(axis=0),
        )[0]
        for s in structures()
    }
    assert np.isfinite(list(x_mm.values())).all()
    for structure in (*SINGLE, "cortex"):
        assert x_mm[f"{structure} left"] < x_mm["cerebellum both"] < x_mm[f"{structure} right"]
    # from the midline outwards on either side
    for nearer, farther in combinations(("thalamus", "pallidum", "putamen"), 2):
        assert x_mm[f"{farther} left"] < x_mm[f"{nearer} left"]
        assert x_mm[f"{nearer} right"] < x_mm[f"{farther} right"]
