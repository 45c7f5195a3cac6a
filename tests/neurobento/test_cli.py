"""The command: what it writes, what it says, and what it leaves alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.cli import main

MNI = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.1]), [-68.0, -90.0, -60.0])
FOUR_PARTS = re.compile(r"^neurobento: (.+): expected (.+); found (.+)\. ([A-Z`].+)\.$", re.M)
ENDINGS = ("dseg.nii.gz", "dseg.tsv", "overlay.png", "run.json", "volumes.tsv")


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets these two for the libraries; afterwards they are as they were."""
    for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        monkeypatch.setenv(name, "1")


@pytest.fixture
def labels(known_labels: Callable[[int], Any]) -> Any:
    return known_labels(11)


@pytest.fixture
def scan(write_nifti: Callable[..., Path], labels: Any) -> Path:
    return write_nifti((labels / np.float32(116)).astype(np.float32), MNI, "sub-01_T1w.nii.gz")


@pytest.fixture
def parcellate(known_model: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs the command on a file with the known model, output in `tmp_path`/out."""

    def run(scan: Path, *options: str) -> int:
        models = str(known_model.parent)
        fixed = ["parcellate", str(scan), "-o", str(tmp_path / "out"), "--models", models]
        return main([*fixed, "--threads", "1", "--preprocessing", "none", *options])

    return run


def refused(status: int, capsys: pytest.CaptureFixture[str], out: Path) -> re.Match[str]:
    """The message's four parts, after a look that nothing was written."""
    assert status == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert not out.exists()
    message = FOUR_PARTS.search(captured.err)
    assert message, captured.err
    return message


def test_the_outputs_are_five_files_called_after_the_scan(
    parcellate: Callable[..., int], scan: Path, tmp_path: Path
) -> None:
    assert parcellate(scan) == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [f"sub-01_T1w_{ending}" for ending in ENDINGS]


def test_the_labels_are_the_models_on_the_scans_grid(
    parcellate: Callable[..., int], scan: Path, labels: Any, tmp_path: Path
) -> None:
    parcellate(scan)
    image = nib.load(tmp_path / "out" / "sub-01_T1w_dseg.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), labels)
    assert np.array_equal(image.affine, nib.load(scan).affine)


def test_stdout_is_the_label_file_and_stderr_the_stages(
    parcellate: Callable[..., int], scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parcellate(scan)
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out' / 'sub-01_T1w_dseg.nii.gz'}\n"
    assert captured.err.startswith("check ...\ninfer ...\nrestore ...\n")


def test_the_backend_asked_for_is_the_one_that_runs(
    parcellate: Callable[..., int], scan: Path, tmp_path: Path
) -> None:
    parcellate(scan, "--backend", "onnxruntime", "--precision", "fp32")
    run = json.loads((tmp_path / "out" / "sub-01_T1w_run.json").read_text())
    assert run["backend"]["name"] == "onnxruntime"
    assert run["backend"]["precision"] == "fp32"
    assert run["backend"]["threads"] == "1"


@pytest.mark.parametrize("name", ["a.b.nii", "a.b.nii.gz", "a.b"])
def test_outputs_drop_only_the_suffix_of_the_scans_format(
    parcellate: Callable[..., int],
    write_nifti: Callable[..., Path],
    labels: Any,
    tmp_path: Path,
    name: str,
) -> None:
    scan = write_nifti((labels / np.float32(116)).astype(np.float32), MNI, name)
    assert parcellate(scan) == 0
    expected = "a" if name == "a.b" else "a.b"
    assert (tmp_path / "out" / f"{expected}_dseg.nii.gz").is_file()


def test_a_file_that_is_no_scan_is_explained_and_nothing_written(
    parcellate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "notes.nii.gz"
    text.write_text("not a scan\n" * 100)
    message = refused(parcellate(text), capsys, tmp_path / "out")
    assert message[1] == str(text)


def test_a_scan_on_another_grid_is_explained_and_nothing_written(
    parcellate: Callable[..., int],
    write_nifti: Callable[..., Path],
    phantom: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scan = write_nifti(phantom.image, phantom.affine)
    status = parcellate(scan)
    assert status == 1
    err = capsys.readouterr().err
    assert "expected 91 x 122 x 123 voxels" in err
    assert "`full`" in err
    assert not (tmp_path / "out").exists()


def test_an_unknown_model_is_refused_and_the_known_ones_named(
    parcellate: Callable[..., int], scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(parcellate(scan, "--model", "grand"), capsys, tmp_path / "out")
    assert message[2] == "one of compact"
    assert message[3] == "'grand'"


@pytest.mark.parametrize("option", ["--backend", "--precision"])
def test_an_unknown_backend_or_precision_is_refused(
    parcellate: Callable[..., int],
    scan: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
) -> None:
    message = refused(parcellate(scan, option, "abacus"), capsys, tmp_path / "out")
    assert message[3] == "'abacus'"


def test_a_changed_model_is_refused(
    scan: Path, known_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models" / "compact"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_bytes((known_model / "spec.json").read_bytes())
    (folder / "model.onnx").write_bytes((known_model / "model.onnx").read_bytes() + b"\0")
    out = tmp_path / "out"
    status = main(["parcellate", str(scan), "-o", str(out), "--models", str(folder.parent)])
    assert "SHA-256" in refused(status, capsys, out)[2]


def test_a_missing_file_is_named(
    parcellate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parcellate(tmp_path / "none.nii.gz") == 1
    err = capsys.readouterr().err
    assert err == f"neurobento: {tmp_path / 'none.nii.gz'}: No such file or directory\n"
    assert not (tmp_path / "out").exists()


def test_an_unknown_level_is_a_usage_error(
    parcellate: Callable[..., int], scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parcellate(scan, "--preprocessing", "some")
    assert ended.value.code == 2
    assert "invalid choice: 'some'" in capsys.readouterr().err


def test_models_lists_the_models_of_a_folder(
    known_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--models", str(known_model.parent)]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split("\t")[:3] == ["name", "version", "network"]
    assert row.split("\t")[:4] == ["compact", "0.0.1", "compact", "not measured"]


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


def test_help_names_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "neurobento.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert all(command in done.stdout for command in ("parcellate", "models", "sample"))
