"""The folder of a running server: whose it is, and what its processes tell each other there."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurobento.serving.process.run_folder import RunFolder
from neurobento.serving.settings import RUN_VARIABLE

ROOT = Path(__file__).resolve().parents[4]
LEFT = "neurobento-run-left"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of this process and of those that it starts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # set before it is deleted, so that what a test sets goes too
    monkeypatch.setenv(RUN_VARIABLE, "")
    monkeypatch.delenv(RUN_VARIABLE)
    return tmp_path


@pytest.fixture
def run() -> RunFolder:
    return RunFolder.make()


@contextlib.contextmanager
def running(program: str | Path) -> Iterator[int]:
    with subprocess.Popen([program, "60"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def living() -> Iterator[int]:
    with running("sleep") as pid:
        yield pid


def start_of(pid: int) -> str:
    """Field 22 of proc_pid_stat(5), for a process whose name has no spaces."""
    return Path(f"/proc/{pid}/stat").read_text().split()[21]


def leave(temporary: Path, owner: str | None) -> Path:
    """A folder that a server left behind, full."""
    left = temporary / LEFT
    (left / "tmp" / "upload").mkdir(parents=True)
    if owner is not None:
        (left / "owner").write_text(owner)
    return left


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_for_its_owner_alone_and_two_servers_have_two(
    run: RunFolder, temporary: Path
) -> None:
    assert run.path.parent == temporary
    assert mode(run.path) == mode(run.temporary) == 0o700
    other = RunFolder.make()
    assert other.path != run.path
    assert run.temporary.is_dir(), "the folder of a living server was removed"


def test_the_folder_of_a_living_owner_is_kept_and_that_of_another_goes(
    living: int, temporary: Path
) -> None:
    """A process id may be used again."""
    with running("sleep") as pid:
        dead = f"{pid} {start_of(pid)}"
    again = f"{living} {int(start_of(living)) - 1}"
    for owner in (dead, again, "", "junk", "1", "x y", "1 2 3"):
        left = leave(temporary, owner)
        RunFolder.make()
        assert not left.exists(), owner
    left = leave(temporary, f"{living} {start_of(living)}")
    RunFolder.make()
    assert left.exists()


def test_a_folder_that_is_just_being_made_or_no_run_is_kept(temporary: Path) -> None:
    left, other = leave(temporary, None), temporary / "neurobento-other"
    other.mkdir()
    RunFolder.make()
    assert left.exists()
    assert other.exists()


def test_an_owner_is_known_whatever_its_program_is_called(temporary: Path) -> None:
    program = temporary / "a) S 1 (b"
    shutil.copy(shutil.which("sleep") or "", program)
    with running(program) as pid:
        # the name is four words: what follows is three further on
        fields = Path(f"/proc/{pid}/stat").read_text().split()
        assert fields[1:5] == ["(a)", "S", "1", "(b)"]
        left = leave(temporary, f"{pid} {fields[21 + 3]}")
        RunFolder.make()
        assert left.exists()


def test_all_that_a_process_starts_shares_its_folder(run: RunFolder) -> None:
    run.make_current()
    ask = (
        "import tempfile; from neurobento.serving.process.run_folder import RunFolder;"
        "print(RunFolder.current().path); print(tempfile.gettempdir())"
    )
    found = subprocess.run(
        [sys.executable, "-c", ask],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split()
    assert found == [str(run.path), str(run.temporary)]
    assert RunFolder.current().path == run.path
    assert Path(tempfile.mkdtemp()).parent == run.temporary


def test_a_process_without_a_server_has_a_folder_of_its_own(run: RunFolder) -> None:
    own = RunFolder.current()
    assert own.path != run.path
    assert own.temporary.is_dir()


def test_the_number_of_requests_is_zero_and_then_read_as_it_was_written(run: RunFolder) -> None:
    assert run.active_requests == 0
    reader = RunFolder(run.path)
    found = []
    for count in (1, 1000, 9, 10, 0):
        run.write_active_requests(count)
        found.append(reader.active_requests)
    assert found == [1, 1000, 9, 10, 0]


def test_a_reader_never_sees_half_a_number(run: RunFolder) -> None:
    """Nor none: a moment without requests would end a drain."""
    said, reader = (7, 100_000), RunFolder(run.path)
    run.write_active_requests(said[0])
    over = threading.Event()

    def say() -> None:
        while not over.is_set():
            for count in said:
                run.write_active_requests(count)

    writer = threading.Thread(target=say)
    writer.start()
    try:
        found = {reader.active_requests for _ in range(10_000)}
    finally:
        over.set()
        writer.join()
    assert found == set(said)


def test_a_drain_is_seen_by_all_and_lasts(run: RunFolder) -> None:
    reader = RunFolder(run.path)
    assert not reader.draining
    run.drain()
    run.drain()
    assert reader.draining
    assert run.draining


def test_a_removed_folder_is_gone_with_all_in_it(run: RunFolder) -> None:
    (run.temporary / "upload").write_bytes(b"scan")
    run.write_active_requests(1)
    run.drain()
    run.remove()
    assert not run.path.exists()
    run.remove()
