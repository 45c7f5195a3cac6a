"""The command `neurobento sample`."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import pytest

from neurobento.cli.main import main
from tests.neurobento.cli.messages import FOUR_PARTS


def test_sample_writes_a_scan_and_says_how_to_use_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "sample.nii.gz"
    assert main(["sample", str(path)]) == 0
    assert nib.load(path).ndim == 3
    assert "--preprocessing stripped" in capsys.readouterr().out


def test_sample_refuses_a_name_that_is_no_nifti_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(tmp_path / "sample.txt")]) == 1
    assert FOUR_PARTS.search(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []
