"""Headers that contradict themselves about the size of a voxel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.errors import BadVoxelSize
from neurobento.imaging.native_space import geometry_warnings, space_of
from neurobento.imaging.scan import read_scan
from neurobento.parcellation.parcellator import prepare, restore_and_measure

SHAPE = (91, 122, 123)


def scan_file(
    folder: Path, sform_mm: Any, pixdim_mm: Any, codes: tuple[int, int], kind: Any
) -> Path:
    image = kind(np.linspace(0, 1, 91 * 122 * 123, dtype=np.float32).reshape(SHAPE), np.eye(4))
    image.set_qform(np.diag([*pixdim_mm, 1.0]), codes[1])
    image.set_sform(np.diag([*sform_mm, 1.0]), codes[0])
    image.header["pixdim"][1:4] = pixdim_mm
    path = folder / "scan.nii.gz"
    nib.save(image, path)
    # nibabel writes the sform's sizes into pixdim
    stored = nib.load(path).header["pixdim"][1:4]
    assert stored == pytest.approx(pixdim_mm)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(
    ("sform_mm", "pixdim_mm", "codes", "told"),
    [
        ((1, 1, 1), (0.868, 0.868, 0.868), (1, 1), True),
        ((1, 1, 1), (1, 1, 1.015), (1, 1), True),
        ((1.5, 1.5, 1.5), (1, 1, 1), (1, 0), True),
        ((1.9, 1, 1), (1, 1, 1), (4, 1), True),
        ((1, 1, 1), (1, 1, 1.005), (1, 1), False),
        ((1, 1, 1), (1, 1, 1), (1, 0), False),
        # there is no sform to contradict
        ((1, 1, 1), (0.868, 0.868, 0.868), (0, 1), False),
    ],
)
def test_a_contradiction_is_told_with_both_sizes_and_which_was_used(
    tmp_path: Path, sform_mm: Any, pixdim_mm: Any, codes: Any, told: bool, kind: Any
) -> None:
    scan = read_scan(scan_file(tmp_path, sform_mm, pixdim_mm, codes, kind))
    warnings = geometry_warnings(scan.space)
    assert len(warnings) == told
    if told:
        for sizes in (sform_mm, pixdim_mm):
            assert " x ".join(f"{size:.4g}" for size in sizes) in warnings[0]
        assert "the sform was used" in warnings[0]
        prepared = prepare(scan, "none", 1)
        parcellation = restore_and_measure(prepared, np.ones(SHAPE, np.uint8), {})
        assert parcellation.warnings[0] == warnings[0]


@pytest.mark.parametrize("factor", [2.1, 0.45])
def test_a_contradiction_by_more_than_a_factor_of_two_is_refused(
    tmp_path: Path, factor: float
) -> None:
    path = scan_file(tmp_path, (1, 1, factor), (1, 1, 1), (1, 1), nib.Nifti1Image)
    with pytest.raises(BadVoxelSize, match=f"1 x 1 x {factor} and 1 x 1 x 1 mm"):
        read_scan(path)


def test_a_grid_without_a_file_does_not_contradict_itself() -> None:
    assert geometry_warnings(space_of(SHAPE, np.diag([1.4, -1.3, 1.1, 1.0]))) == []
