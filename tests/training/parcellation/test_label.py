"""Labelling a cohort: pairs, resuming, failures and the manifest; registration is a fake."""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.distributed
import nibabel as nib
import numpy as np
import pytest
import torch

import training.parcellation.label
import training.parcellation.transplant
from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from neurobento.imaging.geometry import Grid
from neurobento.preprocessing import PreparedScan
from training.parcellation.label import Options, label_all, label_one, main, scan_name, scan_paths
from training.parcellation.map_teacher import PositionField
from training.parcellation.registration import Registered

OPTIONS = Options("stripped")
NETWORK_AFFINE = nib.affines.from_matvec(np.diag([1.4, 1.3, 1.1]), [-60, -70, -50])
SHAPE, BLOCKS = (20, 24, 17), (10, 12, 9)


def registered_labels() -> Any:
    """Three regions, one of them with an island in another."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:10, 2:20, 2:16] = 1
    labels[10:18, 2:20, 2:16] = 116
    labels[4:6, 20:22, 4:14] = 57
    labels[5, 5, 5] = 116
    return labels


def registered_positions() -> Any:
    """As far from the atlas's origin as a head reaches, in steps finer than a file keeps."""
    random = np.random.default_rng(5)
    return random.uniform(-200, 200, (*BLOCKS, 3)).astype(np.float32)


class Calls:
    """What the fakes were called with, in order."""

    def __init__(self) -> None:
        self.levels: list[str] = []
        self.versions: list[int] = []
        self.seeds: list[int] = []
        self.atlases: list[Path | None] = []


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Fakes in place of preprocessing and registration; the environment is restored."""
    seen = Calls()

    def fake_preprocess(scan: Any, preprocessing: str, *, version: int) -> PreparedScan:
        seen.levels.append(preprocessing)
        seen.versions.append(version)
        image = (scan.array / scan.array.max()).astype(np.float32)
        grid = Grid(scan.shape, scan.voxel_to_ras, NETWORK_AFFINE, SHAPE)
        return PreparedScan(image, grid, {"bias_correction": 1.25, "resize": 0.5})

    def fake_find_atlas(folder: Path | None = None) -> str:
        seen.atlases.append(folder)
        return "atlas"

    def fake_register(image: Any, affine: Any, atlas: Any, *, seed: int) -> Any:
        assert np.array_equal(affine, NETWORK_AFFINE)
        assert atlas == "atlas"
        seen.seeds.append(seed)
        return Registered(registered_labels(), registered_positions())

    monkeypatch.setattr(training.parcellation.label, "preprocess", fake_preprocess)
    monkeypatch.setattr(training.parcellation.label, "find_atlas", fake_find_atlas)
    monkeypatch.setattr(training.parcellation.label, "register_atlas", fake_register)
    monkeypatch.setenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
    threads = torch.get_num_threads()
    yield seen
    torch.set_num_threads(threads)


@pytest.fixture
def threads_as_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Dask cluster inside this process, where the fakes are, on a port that is free."""
    real = dask.distributed.LocalCluster

    def in_this_process(**options: Any) -> Any:
        return real(**{**options, "processes": False, "dashboard_address": "127.0.0.1:0"})

    monkeypatch.setattr(dask.distributed, "LocalCluster", in_this_process)


@pytest.fixture
def scan(write_nifti: Callable[..., Path]) -> Path:
    return write_scan(write_nifti, "sub-01_T1w.nii.gz", seed=1)


@pytest.fixture
def donor(write_nifti: Callable[..., Path]) -> Path:
    return write_scan(write_nifti, "donor.nii.gz", seed=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pairs"
    made.mkdir()
    return made


def write_scan(write_nifti: Callable[..., Path], name: str, seed: int) -> Path:
    random = np.random.default_rng(seed)
    return write_nifti(random.integers(0, 90, SHAPE).astype(np.int16), name=name)


def table(path: Path) -> list[dict[str, str]]:
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    return [dict(zip(lines[0], cells, strict=True)) for cells in lines[1:]]


# --- one scan ---


def test_a_scan_becomes_four_images_on_the_network_grid_and_a_record(
    scan: Path, folder: Path
) -> None:
    record = label_one(scan, folder, OPTIONS)
    assert record["status"] == "done"
    assert sorted(path.name for path in folder.iterdir()) == [
        "sub-01_T1w.json",
        "sub-01_T1w_image.nii.gz",
        "sub-01_T1w_labels.nii.gz",
        "sub-01_T1w_positions.nii.gz",
        "sub-01_T1w_registered.nii.gz",
    ]
    assert json.loads((folder / "sub-01_T1w.json").read_text()) == record
    assert record["format"] == 2
    for kind, dtype in (("image", np.float32), ("registered", np.uint8), ("labels", np.uint8)):
        image = nib.load(folder / f"sub-01_T1w_{kind}.nii.gz")
        assert image.affine == pytest.approx(NETWORK_AFFINE, abs=1e-5)
        assert image.get_data_dtype() == dtype
        assert image.shape == SHAPE


def test_positions_are_close_and_lie_where_the_blocks_centres_are(scan: Path, folder: Path) -> None:
    """Voxel i of them is the middle of the network's voxels 2i and 2i + 1."""
    label_one(scan, folder, OPTIONS)
    image = nib.load(folder / "sub-01_T1w_positions.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert np.asarray(image.dataobj) == pytest.approx(registered_positions(), abs=0.00502)
    assert image.shape == (*BLOCKS, 3)
    for block in ([0, 0, 0], [3, 5, 2], [9, 11, 8]):
        voxels = [2 * np.array(block), 2 * np.array(block) + 1]
        corners = [nib.affines.apply_affine(NETWORK_AFFINE, voxel) for voxel in voxels]
        centre = nib.affines.apply_affine(image.affine, block)
        assert centre == pytest.approx(np.mean(corners, axis=0), abs=1e-4)


def test_registered_labels_are_kept_beside_the_clean_ones(scan: Path, folder: Path) -> None:
    label_one(scan, folder, OPTIONS)
    registered = np.asarray(nib.load(folder / "sub-01_T1w_registered.nii.gz").dataobj)
    cleaned = np.asarray(nib.load(folder / "sub-01_T1w_labels.nii.gz").dataobj)
    assert np.array_equal(registered, registered_labels())
    assert np.argwhere(registered != cleaned).tolist() == [[5, 5, 5]]
    assert cleaned[5, 5, 5] == 1


def test_the_record_counts_regions_and_keeps_seconds(scan: Path, folder: Path) -> None:
    gentle = label_one(scan, folder, OPTIONS)
    assert gentle["regions"] == 3
    assert list(gentle["seconds"]) == ["bias_correction", "resize", "registration", "cleanup"]
    assert gentle["seconds"]["bias_correction"] == 1.25
    report = label_one(scan, folder, Options("stripped", cleanup="report"))
    assert report["regions"] == 2


def test_options_reach_the_steps(scan: Path, folder: Path, calls: Calls) -> None:
    label_one(scan, folder, Options("full", "none", seed=7, atlas="/atlas"))
    assert (calls.levels, calls.seeds, calls.atlases) == (["full"], [7], [Path("/atlas")])
    label_one(scan, folder, OPTIONS)
    assert calls.atlases[-1] is None
    assert label_one(scan, folder, replace(OPTIONS, version=2))["preprocessing_version"] == 2
    assert calls.versions == [1, 1, 2]


def test_the_same_scan_gives_the_same_files(scan: Path, tmp_path: Path) -> None:
    outputs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        outputs.append(label_one(scan, tmp_path / name, OPTIONS)["outputs"])
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 4


# --- resuming ---


def test_a_finished_scan_is_not_done_again_wherever_it_moved(
    scan: Path, folder: Path, tmp_path: Path, calls: Calls
) -> None:
    """Content decides, neither folder nor time."""
    done = label_one(scan, folder, OPTIONS)
    kept = label_one(scan, folder, OPTIONS)
    assert kept == {**done, "status": "kept"}
    (tmp_path / "elsewhere").mkdir()
    moved = scan.rename(tmp_path / "elsewhere" / scan.name)
    os.utime(moved, (0, 0))
    assert label_one(moved, folder, OPTIONS)["status"] == "kept"
    assert len(calls.seeds) == 1


def test_another_scan_of_that_name_is_done_again(
    scan: Path, folder: Path, write_nifti: Callable[..., Path], calls: Calls
) -> None:
    before = label_one(scan, folder, OPTIONS)
    write_scan(write_nifti, scan.name, seed=2)
    after = label_one(scan, folder, OPTIONS)
    assert after["status"] == "done"
    assert after["scan_sha256"] != before["scan_sha256"]
    assert len(calls.seeds) == 2


@pytest.mark.parametrize(
    "options",
    [
        Options("full"),
        Options("stripped", cleanup="report"),
        Options("stripped", seed=1),
        Options("stripped", atlas="/other"),
        Options("stripped", version=2),
    ],
)
def test_other_options_are_another_pair(
    options: Options, scan: Path, folder: Path, calls: Calls
) -> None:
    label_one(scan, folder, OPTIONS)
    assert label_one(scan, folder, options)["status"] == "done"
    assert len(calls.seeds) == 2


@pytest.mark.parametrize("kind", ["image", "registered", "labels", "positions"])
@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_lost_or_changed_output_is_made_again(
    kind: str, damage: str, scan: Path, folder: Path
) -> None:
    done = label_one(scan, folder, OPTIONS)
    output = folder / f"sub-01_T1w_{kind}.nii.gz"
    if damage == "missing":
        output.unlink()
    else:
        output.write_bytes(output.read_bytes()[:-1])
    again = label_one(scan, folder, OPTIONS)
    assert again["status"] == "done"
    assert again["outputs"] == done["outputs"]
    assert output.is_file()
    assert label_one(scan, folder, OPTIONS)["status"] == "kept"


def test_a_pair_of_an_earlier_format_is_made_again(scan: Path, folder: Path, calls: Calls) -> None:
    record = label_one(scan, folder, OPTIONS)
    (folder / "sub-01_T1w.json").write_text(json.dumps({**record, "format": 1}))
    assert label_one(scan, folder, OPTIONS)["status"] == "done"
    assert len(calls.seeds) == 2


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"options": 1}', "\0"])
def test_a_damaged_record_is_made_again(text: str, scan: Path, folder: Path) -> None:
    label_one(scan, folder, OPTIONS)
    (folder / "sub-01_T1w.json").write_text(text)
    assert label_one(scan, folder, OPTIONS)["status"] == "done"


def test_the_record_is_written_last(
    scan: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted scan leaves no record, so it is begun again."""
    write = training.parcellation.label.write_atomically

    def full_disk(path: Path, data: bytes, *, gzipped: bool = False) -> None:
        if path.name.endswith("_labels.nii.gz"):
            raise OSError(28, "No space left on device")
        write(path, data, gzipped=gzipped)

    monkeypatch.setattr(training.parcellation.label, "write_atomically", full_disk)
    assert label_one(scan, folder, OPTIONS)["status"] == "failed"
    assert not (folder / "sub-01_T1w.json").exists()
    monkeypatch.setattr(training.parcellation.label, "write_atomically", write)
    assert label_one(scan, folder, OPTIONS)["status"] == "done"


# --- failures ---


def test_a_scan_that_is_missing_or_cannot_be_read_is_a_failed_record(
    folder: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no scan")
    record = label_one(bad, folder, OPTIONS)
    assert (record["name"], record["status"], record["seconds"]) == ("bad", "failed", {})
    assert record["error"].startswith(f"{bad}: expected a NIfTI")
    assert not list(folder.iterdir())
    record = label_one(tmp_path / "nowhere.nii", folder, OPTIONS)
    assert record["status"] == "failed"
    assert "FileNotFoundError" in record["error"]


def test_whatever_a_library_raises_is_a_failed_record(
    scan: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("ITK ERROR")

    monkeypatch.setattr(training.parcellation.label, "register_atlas", broken)
    record = label_one(scan, folder, OPTIONS)
    assert record["status"] == "failed"
    assert record["error"] == "RuntimeError('ITK ERROR')"


# --- a cohort ---


@pytest.fixture
def cohort(write_nifti: Callable[..., Path], tmp_path: Path) -> list[Path]:
    """A good scan, a broken one and another good one."""
    first = write_scan(write_nifti, "c.nii.gz", seed=3)
    broken = tmp_path / "b.nii.gz"
    broken.write_bytes(b"no\tscan\nat all")
    return [first, broken, write_scan(write_nifti, "a.nii", seed=4)]


@pytest.mark.usefixtures("threads_as_cluster")
def test_a_failing_scan_does_not_stop_the_others_and_each_has_a_line_in_the_manifest(
    cohort: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "pairs"
    records = label_all(cohort, folder, OPTIONS, workers=1)
    statuses = [(record["name"], record["status"]) for record in records]
    assert statuses == [("c", "done"), ("b", "failed"), ("a", "done")]
    assert not capsys.readouterr().out
    rows = table(folder / "manifest.tsv")
    assert list(rows[0]) == [
        *("name", "status", "regions"),
        *("bias_correction_s", "resize_s", "registration_s", "cleanup_s"),
        "error",
    ]
    assert [row["name"] for row in rows] == ["c", "b", "a"]
    assert [row["regions"] for row in rows] == ["3", "", "3"]
    assert [row["bias_correction_s"] for row in rows] == ["1.25", "", "1.25"]
    assert "expected a NIfTI" in rows[1]["error"]
    assert rows[0]["error"] == rows[2]["error"] == ""
    assert not list(folder.glob(".*"))


@pytest.mark.usefixtures("threads_as_cluster")
def test_a_second_run_does_only_what_is_missing(
    cohort: list[Path], folder: Path, calls: Calls
) -> None:
    label_all(cohort, folder, OPTIONS, workers=1)
    (folder / "a_labels.nii.gz").unlink()
    records = label_all(cohort, folder, OPTIONS, workers=1)
    assert [record["status"] for record in records] == ["kept", "failed", "done"]
    assert len(calls.seeds) == 3
    assert [row["status"] for row in table(folder / "manifest.tsv")] == ["kept", "failed", "done"]


def test_an_existing_scheduler_is_used_and_left_running(cohort: list[Path], folder: Path) -> None:
    with dask.distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        address = cluster.scheduler_address
        records = label_all(cohort, folder, OPTIONS, workers=99, scheduler=address)
        assert [record["status"] for record in records] == ["done", "failed", "done"]
        with dask.distributed.Client(address) as client:
            assert client.submit(sum, [1, 2]).result() == 3


@pytest.mark.slow
def test_cohorts_run_side_by_side_in_processes_of_their_own(folder: Path, tmp_path: Path) -> None:
    """Dask's usual port 8787 is taken, as by another run; workers know nothing of the fakes."""
    scans = [tmp_path / f"{name}.nii" for name in "xy"]
    for path in scans:
        path.write_bytes(b"no scan")
    with socket.socket() as taken, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with suppress(OSError):
            taken.bind(("127.0.0.1", 8787))
            taken.listen()
        records = label_all(scans, folder, OPTIONS, workers=1)
    assert [(r["name"], r["status"]) for r in records] == [("x", "failed"), ("y", "failed")]
    assert all("expected a NIfTI" in row["error"] for row in table(folder / "manifest.tsv"))


# --- names and the command ---


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mgz", ".mgh"])
def test_a_name_is_the_file_without_its_suffix(suffix: str) -> None:
    assert scan_name(Path(f"/x.nii/sub.01{suffix}")) == "sub.01"


def test_folders_are_their_scans_in_order_of_name(tmp_path: Path) -> None:
    for name in ("b.nii", "a.mgz", "notes.txt", "c.nii.gz"):
        (tmp_path / name).touch()
    found = scan_paths([tmp_path])
    assert [path.name for path in found] == ["a.mgz", "b.nii", "c.nii.gz"]
    assert scan_paths([tmp_path / "b.nii"]) == [tmp_path / "b.nii"]


def test_no_scan_and_two_scans_of_one_name_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found no scan"):
        scan_paths([tmp_path])
    for name in ("a.nii", "a.mgz"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="two scans with one name"):
        scan_paths([tmp_path])


@pytest.mark.usefixtures("threads_as_cluster")
def test_the_exit_status_tells_whether_a_scan_failed(
    cohort: list[Path], tmp_path: Path, calls: Calls
) -> None:
    good, bad = str(cohort[0]), str(cohort[1])
    arguments = ["-o", str(tmp_path / "out"), "--preprocessing", "stripped", "--workers", "1"]
    assert main([good, *arguments, "--seed", "5"]) == 0
    assert main([good, bad, *arguments, "--seed", "5"]) == 1
    assert calls.versions == [1]
    assert calls.seeds == [5]
    record = json.loads((tmp_path / "out" / "c.json").read_text())
    expected = {"level": "stripped", "cleanup": "gentle", "seed": 5, "atlas": None}
    assert record["options"] == expected


@pytest.mark.parametrize("preprocessing", ["none", "everything"])
def test_the_command_refuses_other_levels(
    preprocessing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["a.nii", "-o", str(tmp_path / "out"), "--preprocessing", preprocessing])
    assert caught.value.code == 2
    assert "--preprocessing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


RIGHT = np.array([10.0, 0.0, 0.0])


class FakeTeacher:
    """A map network that says that the scan's world is the atlas's, 10 mm further to the right."""

    def __init__(self) -> None:
        self.levels: list[str] = []

    def read(self, scan: Any, preprocessing: str) -> PositionField:
        self.levels.append(preprocessing)
        blocks = np.diag([9.0, 9.0, 9.0, 1.0])
        world = nib.affines.apply_affine(blocks, np.moveaxis(np.indices((4, 4, 4)), 0, -1))
        return PositionField(world + RIGHT, blocks)

    def labels(self, positions: Any) -> Any:
        return np.where(positions[0] > 0, 7, 3).astype(np.uint8)


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> FakeTeacher:
    """The fake in the folder models/taught."""
    model = SimpleNamespace(spec=SimpleNamespace(onnx_sha256="its hash"))
    fake = FakeTeacher()
    label = training.parcellation.label
    monkeypatch.setattr(label, "open_model", {Path("models/taught"): model}.__getitem__)
    monkeypatch.setattr(label, "open_teacher", {"models/taught": fake}.__getitem__)
    return fake


def test_a_teacher_labels_in_place_of_the_registration(
    scan: Path, folder: Path, calls: Calls, teacher: FakeTeacher
) -> None:
    options = replace(OPTIONS, teacher="models/taught", version=2)
    record = label_one(scan, folder, options)
    assert (record["options"]["teacher"], record["preprocessing_version"]) == ("its hash", 2)
    assert list(record["seconds"]) == ["bias_correction", "resize", "teacher"]
    assert sorted(record["outputs"]) == [
        f"sub-01_T1w_{kind}.nii.gz" for kind in ("image", "labels", "positions")
    ]
    assert (teacher.levels, calls.versions, calls.seeds) == (["stripped"], [2], [])
    image, labels, positions = (nib.load(folder / name) for name in sorted(record["outputs"]))
    assert image.shape == labels.shape == SHAPE
    world = nib.affines.apply_affine(labels.affine, np.moveaxis(np.indices(SHAPE), 0, -1))
    assert np.array_equal(np.asarray(labels.dataobj), np.where(world[..., 0] > -10, 7, 3))
    # positions of the blocks' middles, to a hundredth of a millimetre
    grid = np.moveaxis(np.indices(positions.shape[:3]), 0, -1)
    middles = nib.affines.apply_affine(positions.affine, grid) + RIGHT
    blocks = np.asarray(positions.dataobj)[: BLOCKS[0], : BLOCKS[1], : BLOCKS[2]]
    assert blocks == pytest.approx(middles[: BLOCKS[0], : BLOCKS[1], : BLOCKS[2]], abs=0.0051)
    # another way to label is another pair
    assert label_one(scan, folder, OPTIONS)["status"] == "done"
    assert calls.seeds == [0]


def test_coarser_pairs_have_the_positions_of_the_scan_itself(
    scan: Path, folder: Path, calls: Calls, teacher: FakeTeacher
) -> None:
    options = replace(OPTIONS, teacher="models/taught", version=2, coarser=True)
    record = label_one(scan, folder, options)
    # the teacher sees the scan alone
    assert (teacher.levels, calls.versions) == (["stripped"], [2, 2, 2])
    kinds = ("image", "labels", "positions")
    names = [f"sub-01_T1w_{before}{kind}" for before in ("", "iso_", "thick_") for kind in kinds]
    assert sorted(record["outputs"]) == sorted(f"{name}.nii.gz" for name in names)
    for before in ("iso_", "thick_"):
        positions = nib.load(folder / f"sub-01_T1w_{before}positions.nii.gz")
        grid = np.moveaxis(np.indices(positions.shape[:3]), 0, -1)
        middles = nib.affines.apply_affine(positions.affine, grid) + RIGHT
        assert np.asarray(positions.dataobj) == pytest.approx(middles, abs=0.0051)
    # records of pairs without them stay as they were
    assert "coarser" not in label_one(scan, folder, OPTIONS)["options"]


def test_a_pair_in_a_donors_head_has_the_positions_of_the_scan_itself(
    scan: Path,
    folder: Path,
    calls: Calls,
    teacher: FakeTeacher,
    donor: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = np.ones(SHAPE, bool)
    monkeypatch.setattr(training.parcellation.transplant, "deepbet_mask", lambda _: whole)
    options = replace(OPTIONS, teacher="models/taught", version=2, donors=(str(donor),))
    record = label_one(scan, folder, options)
    # the teacher sees the scan without skull; the brain finder has to find it in the head
    assert (teacher.levels, calls.levels) == (["stripped"], ["stripped", "full"])
    assert record["options"]["donors"] == [file_sha256(donor)]
    positions = nib.load(folder / "sub-01_T1w_head_positions.nii.gz")
    grid = np.moveaxis(np.indices(positions.shape[:3]), 0, -1)
    middles = nib.affines.apply_affine(positions.affine, grid) + RIGHT
    assert np.asarray(positions.dataobj) == pytest.approx(middles, abs=0.0051)
    head = nib.load(folder / "sub-01_T1w_head_image.nii.gz")
    assert head.shape > nib.load(folder / "sub-01_T1w_image.nii.gz").shape
    assert "donors" not in label_one(scan, folder, OPTIONS)["options"]


@pytest.mark.usefixtures("teacher")
@pytest.mark.parametrize("options", [[], ["--teacher", "models/taught"]])
def test_donors_are_for_scans_without_skull_and_a_teacher(
    options: list[str], scan: Path, donor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(scan), "-o", str(tmp_path / "out"), "--preprocessing", "full", *options]
    with pytest.raises(SystemExit):
        main([*arguments, "--donors", str(donor)])
    assert "--donors needs --teacher, and scans without skull" in capsys.readouterr().err


@pytest.mark.usefixtures("threads_as_cluster")
def test_the_command_takes_teacher_and_version(
    scan: Path, tmp_path: Path, calls: Calls, teacher: FakeTeacher
) -> None:
    arguments = [str(scan), "-o", str(tmp_path / "out"), "--preprocessing", "full"]
    options = ["--teacher", "models/taught", "--version", "2", "--workers", "1"]
    assert main([*arguments, *options]) == 0
    assert (teacher.levels, calls.versions, calls.atlases) == (["full"], [2], [])


@pytest.mark.usefixtures("threads_as_cluster", "teacher")
def test_coarser_pairs_need_a_teacher(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(scan), "-o", str(tmp_path / "out"), "--preprocessing", "full", "--coarser"]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "--coarser needs --teacher" in capsys.readouterr().err
    assert main([*arguments, "--teacher", "models/taught", "--workers", "1"]) == 0
    assert (tmp_path / "out" / "sub-01_T1w_thick_labels.nii.gz").is_file()
