"""The command `neurobento cohort`: the files of `parcellate`, resumed, and tables over all."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.distributed
import nibabel as nib
import numpy as np
import pytest

from neurobento import backends
from neurobento.cli import cohort as cohort_command
from neurobento.cli.main import main
from neurobento.cohort import worker
from neurobento.files import hold_folder
from neurobento.labels import aal116
from neurobento.registry import find_model

Command = Callable[..., int]

MNI = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.1]), [-68.0, -90.0, -60.0])
ENDINGS = ("cohort.json", "dseg.nii.gz", "dseg.tsv", "overlay.png", "run.json", "volumes.tsv")


@pytest.fixture(autouse=True)
def fresh_model() -> None:
    """No model of an earlier test is open."""
    worker._open_parcellator.cache_clear()


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Dask cluster inside this process, which starts at once and where fakes are seen."""
    real = dask.distributed.LocalCluster

    def start(**options: Any) -> Any:
        return real(**{**options, "processes": False})

    monkeypatch.setattr(dask.distributed, "LocalCluster", start)


@pytest.fixture
def dataset(
    write_nifti: Callable[..., Path], known_labels: Callable[[int], Any], tmp_path: Path
) -> Path:
    """Two scans of one name, and one that cannot be read."""
    for seed, name in ((1, "sub-01/ses-1/T1.nii.gz"), (2, "sub-02/T1.nii.gz")):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        image = (known_labels(seed) / np.float32(116)).astype(np.float32)
        write_nifti(image, MNI, f"data/{name}")
    (tmp_path / "data" / "sub-03.nii").write_bytes(b"no\tscan")
    return tmp_path / "data"


@pytest.fixture
def cohort(known_model: Path, tmp_path: Path) -> Callable[..., int]:
    """Run the command with the known model, output in `tmp_path`/out."""

    def run(*arguments: Any) -> int:
        fixed = ["-o", str(tmp_path / "out"), "--models", str(known_model.parent)]
        options = ["--preprocessing", "none", "--workers", "1"]
        return main(["cohort", *fixed, *options, *map(str, arguments)])

    return run


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.usefixtures("in_this_process")
def test_each_scan_has_its_five_files_and_a_record(
    cohort: Command,
    dataset: Path,
    known_model: Path,
    known_labels: Callable[[int], Any],
    tmp_path: Path,
) -> None:
    assert cohort(dataset) == 1
    for folder in ("sub-01/ses-1/T1", "sub-02/T1"):
        written = sorted(path.name for path in (tmp_path / "out" / folder).iterdir())
        assert written == [f"T1_{ending}" for ending in ENDINGS]
    labels = nib.load(tmp_path / "out/sub-02/T1/T1_dseg.nii.gz")
    assert np.array_equal(np.asarray(labels.dataobj), known_labels(2))
    arguments = ["-o", str(tmp_path / "one"), "--models", str(known_model.parent)]
    arguments += ["--preprocessing", "none", "--threads", "1"]
    assert main(["parcellate", str(dataset / "sub-02/T1.nii.gz"), *arguments]) == 0
    alone, among = content(tmp_path / "one"), content(tmp_path / "out/sub-02/T1")
    for ending in ("dseg.nii.gz", "dseg.tsv", "overlay.png", "volumes.tsv"):
        assert among[f"T1_{ending}"] == alone[f"T1_{ending}"]
    facts = [json.loads(files["T1_run.json"]) for files in (alone, among)]
    assert {**facts[0], "seconds": 0} == {**facts[1], "seconds": 0}


@pytest.mark.usefixtures("in_this_process")
def test_a_scan_that_fails_is_reported_and_stops_no_other(
    cohort: Command,
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One model is opened for all, and the volumes are those of every scan."""
    opened: list[Any] = []
    real = backends.open_backend

    def counted(*arguments: Any, **options: Any) -> Any:
        opened.append(options["threads"])
        return real(*arguments, **options)

    monkeypatch.setattr(backends, "open_backend", counted)
    assert cohort(dataset) == 1
    assert opened == [1]
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out' / 'cohort.tsv'}\n"
    assert "2 done, 0 kept, 1 failed" in captured.err.splitlines()
    rows = table(tmp_path / "out" / "cohort.tsv")
    assert [row["status"] for row in rows] == ["done", "done", "failed"]
    assert [row["participant_id"] for row in rows] == ["sub-01", "sub-02", "sub-03"]
    assert [row["session_id"] for row in rows] == ["ses-1", "n/a", "n/a"]
    assert rows[2]["error_type"] == "UnknownFormat"
    assert rows[2]["error"].startswith(f"{dataset / 'sub-03.nii'}: expected a NIfTI")
    assert rows[2]["volumes"] == "n/a"
    assert [row["attempts"] for row in rows] == ["1", "1", "1"]
    assert not (tmp_path / "out" / "sub-03").exists()
    assert not list((tmp_path / "out").glob(".*"))
    volumes = table(tmp_path / "out" / "volumes.tsv")
    names = [region.name for region in aal116()]
    assert list(volumes[0]) == ["participant_id", "session_id", "scan", *names]
    assert [row["scan"] for row in volumes] == ["sub-01/ses-1/T1", "sub-02/T1"]
    for row, of_scan in zip(volumes, rows, strict=False):
        own = table(tmp_path / "out" / of_scan["volumes"])
        assert [row[name] for name in names] == [line["volume_mm3"] for line in own]
        assert len(own) == 116


@pytest.mark.usefixtures("in_this_process")
def test_a_second_run_does_only_what_is_missing_or_changed(
    cohort: Command,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (dataset / "sub-03.nii").unlink()
    assert cohort(dataset) == 0
    before = content(tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(worker, "_output_files", lambda *_: pytest.fail("done again"))
        assert cohort(dataset) == 0
    assert "0 done, 2 kept, 0 failed" in capsys.readouterr().err.splitlines()
    after = content(tmp_path / "out")
    assert {**after, "cohort.tsv": b""} == {**before, "cohort.tsv": b""}
    (dataset / "sub-02/T1.nii.gz").write_bytes((dataset / "sub-01/ses-1/T1.nii.gz").read_bytes())
    (tmp_path / "out/sub-01/ses-1/T1/T1_dseg.tsv").write_text("changed")
    assert cohort(dataset) == 0
    assert "2 done, 0 kept, 0 failed" in capsys.readouterr().err.splitlines()
    restored = content(tmp_path / "out")
    assert restored["sub-01/ses-1/T1/T1_dseg.tsv"] == before["sub-01/ses-1/T1/T1_dseg.tsv"]
    assert restored["sub-02/T1/T1_dseg.nii.gz"] == before["sub-01/ses-1/T1/T1_dseg.nii.gz"]


@pytest.mark.usefixtures("in_this_process")
def test_other_options_or_another_model_are_done_again_and_threads_are_not(
    cohort: Command,
    dataset: Path,
    known_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scan = dataset / "sub-02/T1.nii.gz"
    assert cohort(scan) == 0
    assert cohort(scan, "--threads", "2") == 0
    assert "0 done, 1 kept, 0 failed" in capsys.readouterr().err.splitlines()
    assert cohort(scan, "--backend", "onnxruntime") == 0
    assert "1 done, 0 kept, 0 failed" in capsys.readouterr().err.splitlines()
    record = json.loads((tmp_path / "out/sub-02/T1/T1_cohort.json").read_text())
    spec = json.loads((known_model / "spec.json").read_text())
    assert record["options"]["model_sha256"] == spec["onnx_sha256"]
    assert record["options"]["backend"] == "onnxruntime"
    # the key of earlier versions: their records still match
    assert record["options"]["level"] == "none"


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("option", [("--device", "tpu"), ("--backend", "tensorrt")])
def test_a_model_that_cannot_run_ends_the_command(
    cohort: Command, dataset: Path, option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every scan would fail with it."""
    assert cohort(dataset / "sub-02/T1.nii.gz", *option) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("neurobento: ")
    assert "expected" in message


@pytest.mark.usefixtures("in_this_process")
def test_a_worker_with_another_model_refuses(
    cohort: Command,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hashes = iter(["0" * 64, "1" * 64])
    monkeypatch.setattr(worker, "model_sha256", lambda *_: next(hashes))
    assert cohort(dataset / "sub-02/T1.nii.gz") == 1
    assert "on a worker" in capsys.readouterr().err


def test_an_existing_scheduler_is_used_and_left_running(
    known_model: Path, dataset: Path, tmp_path: Path
) -> None:
    with dask.distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        arguments = ["-o", str(tmp_path / "out"), "--models", str(known_model.parent)]
        # --level is the name of --preprocessing in earlier versions
        arguments += ["--level", "none", "--scheduler", cluster.scheduler_address]
        assert main(["cohort", str(dataset / "sub-02"), *arguments]) == 0
        with dask.distributed.Client(cluster) as client:
            assert client.submit(sum, [1, 2]).result() == 3
    assert (tmp_path / "out" / "T1" / "T1_dseg.nii.gz").is_file()


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        (["--workers", "0"], "--workers"),
        (["--threads", "0"], "--threads"),
        (["--scheduler", "tcp://127.0.0.1:1"], "--workers"),
        (["--model", "anomaly", "--models", "models"], "model"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(
    cohort: Command,
    dataset: Path,
    options: list[str],
    subject: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cohort(dataset, *options) == 1
    assert capsys.readouterr().err.startswith(f"neurobento: {subject}: expected ")
    assert not (tmp_path / "out").exists()


def test_a_place_where_nothing_can_be_written_is_refused_before_the_first_scan(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for output in ("labels.nii.gz", "file", "file/below"):
        assert main(["cohort", str(dataset), "-o", str(tmp_path / output)]) == 1
        assert "expected a folder" in capsys.readouterr().err
    assert not (tmp_path / "labels.nii.gz").exists()


@pytest.mark.usefixtures("in_this_process")
def test_a_second_run_into_one_folder_is_refused_and_disturbs_nothing(
    cohort: Command, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It once removed the folder in which the first one kept its unfinished files."""
    out = tmp_path / "out"
    unfinished = out / ".run-1" / "attempts"
    unfinished.mkdir(parents=True)
    with hold_folder(out):
        assert cohort(dataset) == 1
    assert "another process holds. Wait until the other run ends" in capsys.readouterr().err
    assert unfinished.is_dir()
    assert not (out / "cohort.tsv").exists()
    # and a run that was killed is in nobody's way
    assert cohort(dataset) == 1
    assert "2 done, 0 kept, 1 failed" in capsys.readouterr().err
    assert not unfinished.exists()


@pytest.mark.parametrize(
    ("model", "preprocessing", "is_recorded"),
    [("regions", "full", True), ("regions", "stripped", True), ("compact", "full", False)],
)
def test_a_record_names_the_network_that_found_the_brain(
    model: str, preprocessing: str, is_recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(cohort_command, "_run", lambda args: seen.append(args) or 0)
    main(["cohort", "none", "-o", "none", "--model", model, "--preprocessing", preprocessing])
    recorded = cohort_command._cohort_options(seen[0], 1).recorded
    finder = find_model("brain").spec.onnx_sha256
    assert recorded.get("brain_model_sha256") == (finder if is_recorded else None)
