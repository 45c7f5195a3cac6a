"""What an image is taken for that is no T1-weighted head or brain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobento.errors import NoBrainFound, WrongKindOfImage
from neurobento.imaging.scan import Scan, read_scan
from neurobento.preprocessing.image_kind import refuse_labels, value_doubts
from neurobento.preprocessing.pipeline import preprocess

RANDOM = np.random.default_rng(7)
BOX = np.zeros((48, 48, 48), np.float32)
BOX[8:40, 8:40, 8:40] = 1


def blocks(values: Any, side: int) -> Any:
    """A cube of even cubes, each with one of some values."""
    shape = (48 // side,) * 3
    return np.kron(RANDOM.choice(values, shape), np.ones((side,) * 3)).astype(np.float32)


LABELS = {
    "a mask": BOX,
    "a mask of 255": 255 * BOX,
    "two halves": BOX + BOX * (np.arange(48) < 24),
    "a label map": blocks(np.arange(117), 4),
    "FreeSurfer's numbers": blocks([0, 2, 41, 1035, 2035], 6),
    "tissue classes": blocks([0, 1, 2, 3], 8),
    "negative numbers": blocks([-1, 0, 7], 8),
}


@pytest.mark.parametrize("name", LABELS)
def test_masks_and_label_maps_are_refused_by_name(name: str) -> None:
    what = "a mask" if "mask" in name else f"{len(np.unique(LABELS[name])) - 1} whole numbers"
    with pytest.raises(WrongKindOfImage, match=what):
        refuse_labels(LABELS[name])


def scan_of_levels(levels: int) -> Any:
    """Whole numbers with some noise, as scans of few grey levels have them."""
    smooth = np.linspace(0.2, 0.8, 48)[:, None, None] + RANDOM.normal(0, 0.05, (48, 48, 48))
    return (BOX * np.rint(levels * np.clip(smooth, 0, 1))).astype(np.float32)


SCANS = {
    "8 bits": scan_of_levels(255),
    "5 bits": scan_of_levels(31),
    "16 bits": scan_of_levels(4000),
    "fractions": scan_of_levels(255) / 7,
    "4 bits": scan_of_levels(15),
    "a background of 100": scan_of_levels(255) + 100,
    "a background of -1000": np.where(BOX > 0, scan_of_levels(255), -1000).astype(np.float32),
    "no value below 1": np.maximum(scan_of_levels(255), 1),
    "shares of a mask": BOX * np.float32(0.5),
    "no values": np.zeros((48, 48, 48), np.float32),
    "one value": np.full((48, 48, 48), 9, np.float32),
}


@pytest.mark.parametrize("name", SCANS)
def test_scans_are_not_taken_for_labels(name: str) -> None:
    refuse_labels(SCANS[name])


# --- real images ---

SUSPECTS: dict[str, tuple[str, str, str | None]] = {
    # file, preprocessing, the beginning of the first warning
    "a head": ("t1/ixi2mm_Subj02.nii.gz", "full", None),
    "a child": ("t1/dicom_fnndsc_child10y.nii.gz", "full", None),
    "a head cut below the brain": ("t1/openms_thick_03.nii.gz", "full", None),
    "a head on its face, sagittal": ("other/prone_sagittal_5mm.nii.gz", "full", None),
    "a brain": ("t1/ds002748_sub-46.nii.gz", "stripped", None),
    "another brain": ("t1/niimath_T1.nii.gz", "stripped", None),
    "a brain of FreeSurfer": ("other/freesurfer_brainmask.mgz", "stripped", None),
    "a brain at the default": ("t1/ds002748_sub-46.nii.gz", "full", "looks skull-stripped"),
    "a tight brain": ("t1/openms_cs_07.nii.gz", "full", "looks skull-stripped"),
    "a head at `stripped`": ("t1/openms_thick_20.nii.gz", "stripped", "looks like a head"),
    "proton density": ("other/pd_thick.nii.gz", "full", "looks T2-weighted, or proton density"),
    "FLAIR": ("other/flair_stripped_lesion.nii.gz", "stripped", "may not be T1-weighted"),
    "CT angiography": ("other/ct_angiography.nii.gz", "full", "may not be T1-weighted"),
    "a phantom": ("other/phantom_ge.nii.gz", "full", "does not look like a human brain"),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", SUSPECTS)
def test_the_first_warning_names_the_likely_cause(name: str, shared: Path) -> None:
    file, preprocessing, cause = SUSPECTS[name]
    brain = preprocess(read_scan(shared / "data" / file), preprocessing, version=2).brain  # type: ignore[arg-type]
    assert brain is not None
    assert [doubt[: len(cause or "")] for doubt in brain.doubts[:1]] == ([cause] if cause else [])


def turned(scan: Scan, *signs: int) -> Scan:
    affine = np.diag([*signs, 1.0]) @ scan.voxel_to_ras
    return replace(scan, space=replace(scan.space, voxel_to_ras=affine))


TURNED = {
    "a head upside down": ("ixi2mm_Subj03", (1, 1, -1), "upside down"),
    "a head back to front": ("ixi2mm_Subj03", (1, -1, 1), "back to front"),
    "a head turned over": ("ixi2mm_Subj03", (1, -1, -1), "upside down and back to front"),
    "a brain upside down": ("ds002748_sub-47", (1, 1, -1), "upside down"),
    "a brain back to front": ("ds002748_sub-47", (1, -1, 1), "back to front"),
}


@pytest.mark.shared
@pytest.mark.parametrize("case", TURNED)
def test_a_head_whose_header_turns_it_is_found_out(case: str, shared: Path) -> None:
    file, signs, name = TURNED[case]
    preprocessing: Any = "stripped" if "a brain" in case else "full"
    scan = turned(read_scan(shared / "data/t1" / f"{file}.nii.gz"), *signs)
    brain = preprocess(scan, preprocessing, version=2).brain
    assert brain is not None
    assert brain.doubts[0].startswith(f"looks {name}:")


@pytest.mark.shared
@pytest.mark.parametrize(
    "file", ["labels/oasistrt20_01_dkt_subcortical", "labels/ixi2mm_Subj01_dlmuse"]
)
def test_real_label_maps_are_refused(file: str, shared: Path) -> None:
    scan = read_scan(shared / "data" / f"{file}.nii.gz")
    for version in (1, 2):
        with pytest.raises(WrongKindOfImage, match="a label map"):
            preprocess(scan, "stripped", version=version)


@pytest.mark.shared
def test_what_is_no_head_at_all_is_refused_with_its_likely_cause(shared: Path) -> None:
    for file in ("abdomen_mr", "macaque"):
        with pytest.raises(NoBrainFound, match="does not look like a human brain"):
            preprocess(read_scan(shared / "data/other" / f"{file}.nii.gz"), version=2)


def test_a_background_of_minus_1000_is_no_air() -> None:
    scan = np.where(BOX > 0, 1000 * BOX, -1000).astype(np.float32)
    assert value_doubts(scan) == ()
    noisy = (scan + RANDOM.normal(0, 8, scan.shape)).astype(np.float32)
    assert value_doubts(noisy)[0].startswith("looks like a CT")


# Means of a T2-weighted scan and Hounsfield units, for the values of the head maps
T2 = {"fluid": 95.0, "grey": 60.0, "white": 42.0, "other": 35.0}
CT = {"fluid": 8.0, "grey": 38.0, "white": 30.0, "other": 60.0}
FLUID, WHITE = (4, 5, 14, 15, 24, 43, 44), (2, 7, 41, 46)


def drawn(values: Any, means: dict[str, float], air: float) -> Any:
    image = np.full(values.shape, means["grey"])
    image[np.isin(values, FLUID)] = means["fluid"]
    image[np.isin(values, WHITE)] = means["white"]
    image[values >= 200] = means["other"]
    image[values == 0] = air
    return (image + RANDOM.normal(0, 2, values.shape)).astype(np.float32)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("means", "air", "cause"), [(T2, 2.0, "looks T2-weighted"), (CT, -1000.0, "looks like a CT")]
)
def test_drawn_heads_of_other_contrasts_are_named(
    means: Any, air: float, cause: str, shared: Path
) -> None:
    head = read_scan(shared / "data/synthseg_maps/head_map_01.nii.gz")
    image = drawn(np.asarray(head.array), means, air)
    brain = preprocess(replace(head, array=image), version=2).brain
    assert brain is not None
    assert brain.doubts[0].startswith(cause)
