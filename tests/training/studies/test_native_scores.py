"""Scores in native space: a model that gives known labels, beside labels by registration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.errors import ConfigError
from training.studies.independent_truth import structures
from training.studies.native_scores import main

MNI = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.1]), [-68.0, -90.0, -60.0])


@pytest.fixture
def labels(known_labels: Callable[[int], Any]) -> Any:
    return known_labels(11)


@pytest.fixture
def command(
    known_model: Path, write_nifti: Callable[..., Path], labels: Any, tmp_path: Path
) -> list[str]:
    image = (labels / np.float32(116)).astype(np.float32)
    scans = [write_nifti(image, MNI, f"sub-0{n}.nii.gz") for n in (1, 2)]
    model = ["--models", known_model.name, "--models-folder", str(known_model.parent)]
    output = ["--pairs", str(tmp_path / "pairs"), "-o", str(tmp_path / "scores.json")]
    return [*map(str, scans), "--preprocessing", "none", *model, *output]


@pytest.fixture
def pairs(labels: Any, tmp_path: Path) -> Path:
    """The first scan's labels, one region of them changed, in a folder below."""
    changed = np.where(labels == 7, 8, labels).astype(np.uint8)
    path = tmp_path / "pairs" / "set" / "sub-01_labels.nii.gz"
    path.parent.mkdir(parents=True)
    nib.Nifti1Image(changed, MNI).to_filename(path)
    return path


@pytest.mark.usefixtures("pairs")
def test_a_changed_region_costs_its_dice_and_a_scan_without_labels_is_left_out(
    command: list[str], labels: Any, tmp_path: Path
) -> None:
    assert main(command) == 0
    found = json.loads((tmp_path / "scores.json").read_text())
    (scans,) = found["scans"].values()
    assert list(scans) == ["sub-01"]
    seven, eight = (int((labels == n).sum()) for n in (7, 8))
    classes = len(np.unique(labels))
    lost = 1 + (1 - 2 * eight / (2 * eight + seven))
    assert scans["sub-01"]["registration"] == pytest.approx(1 - lost / classes, abs=1e-4)


def test_what_is_in_the_file_is_not_scored_again(
    command: list[str], pairs: Path, tmp_path: Path
) -> None:
    main(command)
    before = json.loads((tmp_path / "scores.json").read_text())
    pairs.unlink()
    main(command)
    assert json.loads((tmp_path / "scores.json").read_text()) == before


@pytest.mark.usefixtures("pairs")
def test_scores_of_another_preprocessing_are_not_mixed_in(command: list[str]) -> None:
    main(command)
    command[command.index("none")] = "stripped"
    with pytest.raises(ConfigError, match="another preprocessing"):
        main(command)


def test_models_and_registration_are_scored_against_independent_truth(
    command: list[str], pairs: Path, labels: Any, tmp_path: Path
) -> None:
    """The truth is the model's own labels, renamed; registration has lost a hippocampus."""
    truth = np.zeros(labels.shape, np.int16)
    for structure in structures():
        truth[np.isin(labels, structure.values["aal"])] = structure.values["aseg"][0]
    folder = tmp_path / "truth"
    folder.mkdir()
    nib.Nifti1Image(truth, MNI).to_filename(folder / "sub-01_aseg.nii.gz")
    lost = structures()[0].values["aal"]
    nib.Nifti1Image(np.where(np.isin(labels, lost), 0, labels), MNI).to_filename(pairs)
    assert main([*command, "--truth", str(folder)]) == 0
    found = json.loads((tmp_path / "scores.json").read_text())
    model, registration = (found["scans"][name]["sub-01"] for name in ("regions", "registration"))
    assert model["structures"] == 1
    count = len(structures())
    assert registration["structures"] == pytest.approx((count - 1) / count, abs=1e-4)
    assert found["summary"]["regions"]["structures"]["least"] == 1
