"""A model's labels are drawn beside those by registration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from neurobento.errors import ConfigError
from training.studies.label_pictures import main

MNI = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.1]), [-68.0, -90.0, -60.0])


@pytest.fixture
def command(
    known_model: Path,
    known_labels: Callable[[int], Any],
    write_nifti: Callable[..., Path],
    tmp_path: Path,
) -> list[str]:
    labels = known_labels(3)
    scan = write_nifti((labels / np.float32(116)).astype(np.float32), MNI, "sub-01.nii.gz")
    (tmp_path / "pairs").mkdir()
    nib.Nifti1Image(labels, MNI).to_filename(tmp_path / "pairs" / "sub-01_labels.nii.gz")
    model = ["--model", known_model.name, "--models-folder", str(known_model.parent)]
    places = ["--pairs", str(tmp_path / "pairs"), "-o", str(tmp_path / "labels.png")]
    return [str(scan), "--preprocessing", "none", *model, *places]


def test_equal_labels_make_equal_pictures(command: list[str], tmp_path: Path) -> None:
    assert main(command) == 0
    with Image.open(tmp_path / "labels.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB"), np.int16)
    assert pixels.max() > 100
    height, width, _ = pixels.shape
    left, right = (pixels[height // 4 :, part] for part in np.split(np.arange(width), [width // 2]))
    # the titles above differ, the pictures are the same up to where they begin
    assert abs(left.mean() - right.mean()) < 0.05 * left.mean()


def test_a_scan_without_labels_is_named(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "pairs" / "sub-01_labels.nii.gz").unlink()
    with pytest.raises(ConfigError, match=r"sub-01_labels\.nii\.gz"):
        main(command)
