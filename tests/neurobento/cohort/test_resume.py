"""A record matches while nothing has changed; folders are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from neurobento.cohort.resume import matching_record, replace_folder
from neurobento.errors import ConfigError

MADE_FROM = {"format": 1, "options": {"preprocessing": "none"}}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_bytes(b"output")
    outputs = {"a.txt": hashlib.sha256(b"output").hexdigest()}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**MADE_FROM, "outputs": outputs, "more": 5}))
    return path


def test_a_matching_record_is_returned_whole_and_one_of_other_inputs_is_none(record: Path) -> None:
    found = matching_record(record, MADE_FROM)
    assert found is not None
    assert found["more"] == 5
    for change in ({"format": 2}, {"options": {}}, {"unheard": 1}):
        assert matching_record(record, {**MADE_FROM, **change}) is None


def test_a_damaged_record_or_one_of_changed_or_missing_outputs_does_not_match(
    record: Path, tmp_path: Path
) -> None:
    whole = record.read_text()
    for text in ("", "[]", "null", "{}", '{"format": 1}', '{"outputs": 3}'):
        record.write_text(text)
        assert matching_record(record, MADE_FROM) is None
    record.write_text(whole)
    (tmp_path / "a.txt").write_bytes(b"other")
    assert matching_record(record, MADE_FROM) is None
    (tmp_path / "a.txt").unlink()
    assert matching_record(record, MADE_FROM) is None


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    made = tmp_path / "staging"
    made.mkdir()
    return made


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_replaces_an_earlier_one_whole(tmp_path: Path, staging: Path) -> None:
    folder = tmp_path / "sub-01" / "a"
    replace_folder(folder, {"a_1": b"old", "a_2": b"old"}, "a_", staging)
    replace_folder(folder, {"a_1": b"new"}, "a_", staging)
    assert content(folder) == {"a_1": b"new"}
    assert list(staging.iterdir()) == []


@pytest.mark.parametrize("name", ["notes.txt", "a_more/b"])
def test_a_folder_with_other_files_is_left_alone(name: str, tmp_path: Path, staging: Path) -> None:
    foreign = tmp_path / "a" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="1 other file"):
        replace_folder(tmp_path / "a", {"a_1": b"new"}, "a_", staging)
    assert foreign.read_bytes() == b"mine"


def test_a_full_disk_leaves_the_earlier_folder(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    replace_folder(folder, {"a_1": b"old", "a_2": b"old"}, "a_", staging)
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "a_2":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        replace_folder(folder, {"a_1": b"new", "a_2": b"new"}, "a_", staging)
    assert content(folder) == {"a_1": b"old", "a_2": b"old"}


def test_the_folder_of_a_quicker_worker_stays(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that the scheduler gave up may live and finish the same scan."""
    folder = tmp_path / "a"
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if target == folder:
            folder.mkdir()
            (folder / "a_1").write_bytes(b"twin's")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    replace_folder(folder, {"a_1": b"ours"}, "a_", staging)
    assert content(folder) == {"a_1": b"twin's"}
    assert list(staging.iterdir()) == []
