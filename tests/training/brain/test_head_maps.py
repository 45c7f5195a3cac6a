"""Label maps of heads, and what their values mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from neurobento.errors import ConfigError
from neurobento.preprocessing.tissues import TISSUES
from tests.training.brain.head_map import BRAINSTEM, FLUID, map_values
from training.brain.drawn_heads import T1
from training.brain.head_maps import (
    OUTSIDE_SKULL,
    STRUCTURE_OF_VALUE,
    STRUCTURES,
    TISSUE_OF_VALUE,
    read_head_maps,
)

SPINAL_FLUID = 255


def write_map(folder: Path, values: Any, codes: str = "RAS", size_mm: float = 1.0) -> Path:
    image = nib.Nifti1Image(values, np.diag([size_mm] * 3 + [1.0]))
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    )
    path = folder / f"{codes}.nii.gz"
    nib.save(image.as_reoriented(turn), path)
    return path


@pytest.mark.parametrize(
    ("value", "tissue"),
    [
        (0, "air"),
        (24, "cerebrospinal fluid"),
        (4, "ventricles"),
        (42, "cerebral cortex"),
        (2, "cerebral white matter"),
        (77, "cerebral white matter"),
        (49, "deep grey matter"),
        (17, "hippocampus and amygdala"),
        (54, "hippocampus and amygdala"),
        (8, "cerebellar cortex"),
        (46, "cerebellar white matter"),
        (16, "brainstem"),
        (215, "other head"),
        (SPINAL_FLUID, "other head"),
        (250, "other head"),
    ],
)
def test_a_value_has_freesurfers_tissue(value: int, tissue: str) -> None:
    assert TISSUES[int(TISSUE_OF_VALUE[value])] == tissue


def test_each_value_belongs_to_one_structure_that_has_an_intensity() -> None:
    values = [value for each in STRUCTURES.values() for value in each]
    assert len(values) == len(set(values))
    assert T1.keys() == STRUCTURES.keys()
    names = list(STRUCTURES)
    for name, each in STRUCTURES.items():
        assert {names[int(STRUCTURE_OF_VALUE[value])] for value in each} == {name}
    assert set(TISSUE_OF_VALUE.tolist()) == set(range(len(TISSUES)))


def test_maps_are_turned_to_ras_and_the_brain_ends_at_the_brainstem(tmp_path: Path) -> None:
    values = map_values()
    for codes in ("LPS", "SRP"):
        write_map(tmp_path, values, codes)
    first, second = read_head_maps(tmp_path)
    assert (first.name, second.name) == ("LPS", "SRP")
    assert first.values.dtype == torch.uint8
    assert torch.equal(first.values, second.values)
    lowest = int(np.flatnonzero((values == BRAINSTEM).any(axis=(0, 1)))[0])
    found = first.values.numpy()
    assert np.array_equal(found[..., lowest:], values[..., lowest:])
    below, before = found[..., :lowest], values[..., :lowest]
    assert (before == FLUID).any()
    assert (below[before == FLUID] == SPINAL_FLUID).all()
    assert np.array_equal(below[before != FLUID], before[before != FLUID])
    assert (below[before == FLUID] >= OUTSIDE_SKULL).all()


def wrong_type(folder: Path) -> None:
    write_map(folder, map_values().astype(np.int16))


def wrong_size(folder: Path) -> None:
    write_map(folder, map_values(), size_mm=2.0)


@pytest.mark.parametrize("write", [wrong_type, wrong_size, lambda folder: None])
def test_what_is_no_map_is_refused(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError, match="label map"):
        read_head_maps(tmp_path)
