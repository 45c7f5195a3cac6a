"""The command `neurobento parcellate`, on this machine and through a service."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.cli.main import main
from neurobento.errors import EmptyScan, NeuroBentoError, PreprocessingFailed
from neurobento.imaging.scan import read_scan
from tests.neurobento.cli.messages import FOUR_PARTS
from tests.neurobento.client.fake_services import (
    FILES,
    FakeService,
    Files,
    GrpcService,
    HttpService,
    Refusal,
)

Command = Callable[..., int]
CheckRefusal = Callable[..., re.Match[str]]

MNI = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.1]), [-68.0, -90.0, -60.0])
ENDINGS = ("dseg.nii.gz", "dseg.tsv", "overlay.png", "run.json", "volumes.tsv")


@pytest.fixture
def labels(known_labels: Callable[[int], Any]) -> Any:
    return known_labels(11)


@pytest.fixture
def scan(write_nifti: Callable[..., Path], labels: Any) -> Path:
    return write_nifti((labels / np.float32(116)).astype(np.float32), MNI, "sub-01_T1w.nii.gz")


@pytest.fixture
def parcellate(known_model: Path, tmp_path: Path) -> Callable[..., int]:
    """Run the command on files with the known model, output in `tmp_path`/out."""

    def run(scan: Path, *options: str, further: Sequence[Path] = ()) -> int:
        files = map(str, [scan, *further])
        fixed = ["-o", str(tmp_path / "out"), "--models", str(known_model.parent)]
        fixed += ["--threads", "1", "--preprocessing", "none"]
        return main(["parcellate", *files, *fixed, *options])

    return run


def test_five_files_are_called_after_the_scan_with_the_models_labels_on_its_grid(
    parcellate: Command, scan: Path, labels: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output is the label file, and standard error the stages."""
    assert parcellate(scan) == 0
    out = tmp_path / "out"
    written = sorted(path.name for path in out.iterdir())
    assert written == [f"sub-01_T1w_{ending}" for ending in ENDINGS]
    image = nib.load(out / "sub-01_T1w_dseg.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), labels)
    assert np.array_equal(image.affine, nib.load(scan).affine)
    captured = capsys.readouterr()
    assert captured.out == f"{out / 'sub-01_T1w_dseg.nii.gz'}\n"
    assert captured.err.startswith("check ...\ninfer ...\nrestore ...\n")


def test_a_bias_corrected_image_needs_a_model_with_a_mask(
    parcellate: Command, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parcellate(scan, "--bias-corrected") != 0
    assert "preprocessing version 2" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


def test_the_named_backend_is_the_one_that_runs(
    parcellate: Command, scan: Path, tmp_path: Path
) -> None:
    parcellate(scan, "--backend", "onnxruntime", "--precision", "fp32")
    run = json.loads((tmp_path / "out" / "sub-01_T1w_run.json").read_text())
    assert run["backend"]["name"] == "onnxruntime"
    assert run["backend"]["precision"] == "fp32"
    assert run["backend"]["threads"] == "1"


@pytest.mark.parametrize("name", ["a.b.nii", "a.b.nii.gz", "a.b"])
def test_outputs_drop_only_the_suffix_of_the_scans_format(
    parcellate: Command, write_nifti: Callable[..., Path], labels: Any, tmp_path: Path, name: str
) -> None:
    scan = write_nifti((labels / np.float32(116)).astype(np.float32), MNI, name)
    assert parcellate(scan) == 0
    expected = "a" if name == "a.b" else "a.b"
    assert (tmp_path / "out" / f"{expected}_dseg.nii.gz").is_file()


def test_a_scan_on_another_grid_is_explained_and_nothing_written(
    parcellate: Command,
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


@pytest.mark.parametrize("option", ["--backend", "--precision", "--model"])
def test_an_unknown_backend_precision_or_model_is_refused(
    parcellate: Command, scan: Path, option: str, refusal: CheckRefusal
) -> None:
    message = refusal(parcellate(scan, option, "abacus"))
    assert message[3] == "'abacus'"
    if option == "--model":
        assert message[2] == "one of regions"


def test_a_changed_model_is_refused(
    scan: Path, known_model: Path, tmp_path: Path, refusal: CheckRefusal
) -> None:
    folder = tmp_path / "models" / "regions"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_bytes((known_model / "spec.json").read_bytes())
    (folder / "model.onnx").write_bytes((known_model / "model.onnx").read_bytes() + b"\0")
    out = tmp_path / "out"
    status = main(["parcellate", str(scan), "-o", str(out), "--models", str(folder.parent)])
    assert "SHA-256" in refusal(status)[2]


def test_a_missing_file_is_named(
    parcellate: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parcellate(tmp_path / "none.nii.gz") == 1
    err = capsys.readouterr().err
    assert err == f"neurobento: {tmp_path / 'none.nii.gz'}: No such file or directory\n"
    assert not (tmp_path / "out").exists()


def test_what_is_no_file_is_named_and_the_others_are_done(
    parcellate: Command, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, pipe, loop, gone = (tmp_path / n for n in ("scans", "pipe.nii", "loop.nii", "gone.nii"))
    folder.mkdir()
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    assert parcellate(folder, further=[pipe, loop, gone, Path("/dev/null"), scan]) == 1
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out' / 'sub-01_T1w_dseg.nii.gz'}\n"
    assert f"{folder}: expected a regular file; found a folder." in captured.err
    assert "`neurobento cohort`" in captured.err
    for path in (pipe, "/dev/null"):
        assert f"{path}: expected a regular file; found a pipe or a device." in captured.err
    assert f"{loop}: Too many levels of symbolic links" in captured.err
    assert f"{gone}: No such file or directory" in captured.err


def test_a_file_behind_a_descriptor_is_read_and_a_pipe_is_refused(
    parcellate: Command, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a shell gives them: `/dev/stdin`, and `<(zcat scan)`."""
    with scan.open("rb") as file:
        assert parcellate(Path(f"/dev/fd/{file.fileno()}")) == 0
    reader, writer = os.pipe()
    try:
        assert parcellate(Path(f"/dev/fd/{reader}")) == 1
    finally:
        os.close(reader)
        os.close(writer)
    assert f"/dev/fd/{reader}: expected a regular file; found a pipe" in capsys.readouterr().err


def test_a_scan_that_memory_does_not_hold_and_a_link_without_content_stop_no_other(
    parcellate: Command,
    scan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = iter([1 << 20, 1 << 40])
    monkeypatch.setattr("neurobento.imaging.scan.free_memory", lambda: next(sizes))
    large, link = tmp_path / "large.nii.gz", tmp_path / "link.nii.gz"
    large.write_bytes(scan.read_bytes())
    link.symlink_to(tmp_path / "annex")
    assert parcellate(large, further=[link, scan]) == 1
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out' / 'sub-01_T1w_dseg.nii.gz'}\n"
    assert f"{large}: expected 279 MiB of free memory for a scan of" in captured.err
    assert "found 1 MiB" in captured.err
    assert (
        f"{link}: expected a regular file; found a link whose content is not here" in captured.err
    )


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("link", "link: No such file or directory"),
        ("labels.nii.gz", "the name of an image file"),
        ("LABELS.NII", "the name of an image file"),
        ("file", "file: Not a directory"),
        ("file/below/it", "file: Not a directory"),
        ("/dev/null", "null: Not a directory"),
        ("/proc/labels", "proc: No such file or directory"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_refused_before_the_first_scan(
    output: str, found: str, scan: Path, tmp_path: Path, refusal: CheckRefusal
) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "link").symlink_to("/nowhere/at/all")
    status = main(["parcellate", str(scan), "-o", str(tmp_path / output), "--models", "nowhere"])
    assert refusal(status)[3].endswith(found)
    assert not (tmp_path / "labels.nii.gz").exists()


def test_a_disk_without_room_is_refused_before_the_first_scan(
    scan: Path, tmp_path: Path, refusal: CheckRefusal
) -> None:
    """With a limit on the size of files in place of a small disk, which needs an administrator."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        status = main(["parcellate", str(scan), "-o", str(tmp_path / "out"), "--models", "nowhere"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refusal(status)[3].endswith("File too large")


def test_a_disk_that_fills_up_leaves_no_half_of_the_outputs(
    parcellate: Command,
    scan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_bytes = Path.write_bytes

    def write(path: Path, content: bytes) -> int:
        if len(list(path.parent.glob(".*.part"))) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    assert parcellate(scan) == 1
    assert f"{scan}: {tmp_path / 'out'}: No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "s" * 243,
        "ü" * 121,
        "脳" * 81,
        "T1 (2) & 'more'",
        "-o",
        ".hidden",
        "sub-01.T1w",
        "line\nend",
    ],
)
def test_a_name_of_any_kind_and_as_long_as_names_can_be_has_its_outputs(
    name: str, parcellate: Command, scan: Path, tmp_path: Path
) -> None:
    longest = scan.rename(tmp_path / f"{name}.nii.gz")
    assert parcellate(longest) == 0
    assert (tmp_path / "out" / f"{name}_volumes.tsv").is_file()


def test_unknown_preprocessing_is_a_usage_error(
    parcellate: Command, scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parcellate(scan, "--preprocessing", "some")
    assert ended.value.code == 2
    assert "invalid choice: 'some'" in capsys.readouterr().err


def test_several_scans_are_parcellated_and_a_bad_one_stops_no_other(
    parcellate: Command, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, other = tmp_path / "bad.nii.gz", tmp_path / "sub-02_T1w.nii.gz"
    bad.write_text("not a scan")
    other.write_bytes(scan.read_bytes())
    assert parcellate(scan, further=[bad, other]) == 1
    captured = capsys.readouterr()
    outputs = [tmp_path / "out" / f"sub-0{n}_T1w_dseg.nii.gz" for n in (1, 2)]
    assert captured.out.splitlines() == [str(path) for path in outputs]
    assert len(list((tmp_path / "out").iterdir())) == 2 * len(ENDINGS)
    (message,) = FOUR_PARTS.finditer(captured.err)
    assert message[1] == str(bad)


def test_scans_whose_outputs_would_overwrite_each_other_are_refused(
    parcellate: Command, scan: Path, tmp_path: Path, refusal: CheckRefusal
) -> None:
    twin = tmp_path / "other" / "sub-01_T1w.nii"
    twin.parent.mkdir()
    twin.write_bytes(scan.read_bytes())
    message = refusal(parcellate(scan, further=[twin]))
    assert message[1] == str(twin)


@pytest.fixture(params=[HttpService, GrpcService])
def service(request: pytest.FixtureRequest) -> Iterator[FakeService]:
    with closing(request.param()) as opened:
        yield opened


@pytest.fixture
def http() -> Iterator[FakeService]:
    with closing(HttpService()) as opened:
        yield opened


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., int]:
    """Run the command through a service, output in `tmp_path`/served."""

    def run(service: FakeService, *options: str) -> int:
        out = str(tmp_path / "served")
        return main(["parcellate", "-o", out, "--url", service.url, *options])

    return run


@pytest.fixture
def local(parcellate: Callable[..., int], scan: Path, tmp_path: Path) -> dict[str, bytes]:
    """What the command writes without a service; ending -> content."""
    assert parcellate(scan) == 0
    return {ending: (tmp_path / "out" / f"sub-01_T1w_{ending}").read_bytes() for ending in ENDINGS}


def served(local: dict[str, bytes], **facts: Any) -> Files:
    """The same files as a service sends them; over gRPC the facts are in one line."""
    run = {**json.loads(local["run.json"]), **facts}
    return Files({**local, "run.json": json.dumps(run).encode()})


def test_through_a_service_come_the_same_files(
    ask: Command,
    service: FakeService,
    local: dict[str, bytes],
    scan: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service.replies = [Files(local) if service.scheme == "http" else served(local)]
    capsys.readouterr()
    assert ask(service, str(scan), "--preprocessing", "none", "--model", "grand") == 0
    served_folder = tmp_path / "served"
    assert {path.name: path.read_bytes() for path in served_folder.iterdir()} == {
        f"sub-01_T1w_{ending}": content for ending, content in local.items()
    }
    captured = capsys.readouterr()
    assert captured.out == f"{served_folder / 'sub-01_T1w_dseg.nii.gz'}\n"
    assert captured.err.startswith("uploading ...\n")
    warnings = json.loads(local["run.json"])["warnings"]
    assert warnings
    lines = "".join(f"warning: {warning}\n" for warning in warnings)
    assert captured.err.endswith(f"write ...\n{lines}")
    (seen,) = service.seen
    assert seen.fields["file"] == ("scan", scan.read_bytes())
    assert (seen.fields["preprocessing"], seen.fields["model"]) == ("none", "grand")


@pytest.mark.parametrize("kind", [EmptyScan, PreprocessingFailed])
def test_a_services_refusal_reads_as_the_local_one(
    ask: Command,
    service: FakeService,
    scan: Path,
    kind: type[NeuroBentoError],
    refusal: CheckRefusal,
) -> None:
    error = kind(expected="a head", found="a tail", remedy="Turn it round.")
    service.replies = [Refusal.of(422, "INVALID_ARGUMENT", error)]
    message = refusal(ask(service, str(scan)), "served")
    assert message.groups() == (str(scan), "a head", "a tail", "Turn it round")


def test_a_file_that_is_no_scan_is_explained_in_the_same_words_here_and_there(
    parcellate: Command, ask: Command, service: FakeService, tmp_path: Path, refusal: CheckRefusal
) -> None:
    text = tmp_path / "notes.nii.gz"
    text.write_text("not a scan\n" * 100)
    with pytest.raises(NeuroBentoError) as caught:
        read_scan(text)
    service.replies = [Refusal.of(422, "INVALID_ARGUMENT", caught.value)]
    here = refusal(parcellate(text))
    assert here[1] == str(text)
    there = refusal(ask(service, str(text)), "served")
    assert there[0] == here[0]


def test_a_service_that_refuses_the_token_ends_the_command(
    ask: Command, service: FakeService, scan: Path, tmp_path: Path, refusal: CheckRefusal
) -> None:
    service.replies = [Refusal(401, "UNAUTHENTICATED", "NotAuthorised", "no")]
    (tmp_path / "another.nii").write_bytes(scan.read_bytes())
    status = ask(service, str(scan), str(tmp_path / "another.nii"))
    assert refusal(status, "served")[1] == service.url
    assert len(service.seen) == 1


@pytest.mark.parametrize("source", ["environment", "file"])
def test_the_token_is_sent_and_not_shown(
    ask: Command,
    http: FakeService,
    scan: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    options = []
    monkeypatch.setenv("NEUROBENTO_TOKEN", "of-the-environment")
    if source == "file":
        (tmp_path / "token").write_text("of-the-file\n")
        options = ["--token-file", str(tmp_path / "token")]
    assert ask(http, str(scan), *options) == 0
    assert http.seen[0].headers["authorization"] == f"Bearer of-the-{source}"
    assert "of-the" not in "".join(capsys.readouterr())


def test_the_time_limit_is_sent(ask: Command, http: FakeService, scan: Path) -> None:
    assert ask(http, str(scan), "--timeout", "30") == 0
    assert 29 < (http.seen[0].limit_s or 0) <= 30


def test_a_services_warnings_cannot_steer_the_terminal(
    ask: Command, http: FakeService, scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    http.replies = [Files({**FILES, "run.json": b'{"warnings": ["a\\u001b[2Jb"]}'})]
    assert ask(http, str(scan)) == 0
    assert "warning: a [2Jb\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--models", "models"),
        ("--backend", "auto"),
        ("--device", "cpu"),
        ("--precision", "fp32"),
        ("--threads", "2"),
    ],
)
def test_options_that_the_service_decides_are_refused_beside_a_url(
    ask: Command, service: FakeService, scan: Path, option: str, value: str, refusal: CheckRefusal
) -> None:
    message = refusal(ask(service, str(scan), option, value), "served")
    assert message[1] == option
    assert "--url" in message[2]
    assert service.seen == []


@pytest.mark.parametrize(("option", "value"), [("--timeout", "5"), ("--token-file", "token")])
def test_options_of_a_service_need_a_url(
    parcellate: Command, scan: Path, option: str, value: str, refusal: CheckRefusal
) -> None:
    message = refusal(parcellate(scan, option, value))
    assert message[1] == option


@pytest.mark.parametrize("url", ["localhost:3000", ""])
def test_an_address_without_a_scheme_is_refused(
    scan: Path, tmp_path: Path, url: str, refusal: CheckRefusal
) -> None:
    status = main(["parcellate", str(scan), "-o", str(tmp_path / "out"), "--url", url])
    assert refusal(status)[3] == repr(url)


def test_a_missing_scan_is_told_and_the_others_are_sent(
    ask: Command,
    service: FakeService,
    scan: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing = tmp_path / "none.nii"
    assert ask(service, str(missing), str(scan)) == 1
    assert len(service.seen) == 1
    assert f"neurobento: {missing}: No such file or directory\n" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["table", "grid", "labels"])
def test_tables_are_not_made_of_labels_that_do_not_belong(
    ask: Command,
    local: dict[str, bytes],
    write_nifti: Callable[..., Path],
    scan: Path,
    capsys: pytest.CaptureFixture[str],
    change: str,
    refusal: CheckRefusal,
) -> None:
    facts = {"model": {"region_table_sha256": "0" * 64}} if change == "table" else {}
    other = write_nifti(np.ones((4, 5, 6), np.uint8), MNI, "other.nii.gz").read_bytes()
    wrong = {"table": local["dseg.nii.gz"], "grid": other, "labels": b"\x1f\x8bno labels"}
    capsys.readouterr()
    with closing(GrpcService()) as service:
        service.replies = [Files({**served(local, **facts).files, "dseg.nii.gz": wrong[change]})]
        message = refusal(ask(service, str(scan)), "served")
    assert message[1] == str(scan)
    assert "same version" in message[4]
