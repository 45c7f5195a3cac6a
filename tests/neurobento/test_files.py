"""Files that several processes write, and folders that one of them holds."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from neurobento import files
from neurobento.errors import ConfigError
from neurobento.files import hold_folder, replacing, write_atomically, write_together

HOLD = """
import sys, time
from pathlib import Path
from neurobento.files import hold_folder
with hold_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_last_of_many_writers_is_there_whole(tmp_path: Path) -> None:
    file = tmp_path / "labels.nii.gz"
    contents = [bytes([n]) * 300_000 for n in range(16)]
    write_atomically(file, contents[0])
    with ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(write_atomically, file, each) for each in contents]
        while not all(writer.done() for writer in writers):
            assert file.read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["labels.nii.gz"]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text("earlier")
    with pytest.raises(OSError, match="full"), replacing(file) as part:
        part.write_text("half")
        raise OSError("full")
    assert file.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [file]


def test_files_that_belong_together_are_written_or_none_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    write_together(folder, {"a": b"1", "b": b"2"})
    with pytest.raises(OSError, match="Is a directory") as caught:
        (folder / "c").mkdir()
        write_together(folder, {"c": b"other", "a": b"other", "d": b"other"})
    assert caught.value.filename == str(folder)
    assert (folder / "a").read_bytes() == b"1"
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "c"]


def test_of_two_sets_of_files_at_once_one_is_there_whole(tmp_path: Path) -> None:
    names = [f"scan_{n}" for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(20):
            sets = [dict.fromkeys(names, bytes([n]) * 1000) for n in range(6)]
            list(pool.map(lambda each: write_together(tmp_path, each), sets))
            assert len({(tmp_path / name).read_bytes() for name in names}) == 1


def test_files_are_written_into_a_folder_that_is_held_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LONGEST_WRITE_S", 0.1)
    with hold_folder(tmp_path):
        write_together(tmp_path, {"a": b"1"})
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_folder_that_another_process_holds_is_refused_until_it_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            with pytest.raises(ConfigError, match="another process holds"):  # noqa: SIM117
                with hold_folder(tmp_path, "Wait."):
                    raise AssertionError("held twice")
        finally:
            process.kill()
    assert not list(tmp_path.iterdir())
    with hold_folder(tmp_path):
        pass


def test_who_waits_gets_the_folder_when_the_other_is_done(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with hold_folder(tmp_path, wait=True):
            order.append("second")

    with hold_folder(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_folder_is_free_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), hold_folder(tmp_path):
            raise ZeroDivisionError
