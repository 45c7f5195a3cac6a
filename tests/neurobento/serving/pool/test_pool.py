"""The pool of processes: what comes back, what ends in the middle, and what dies."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import operator
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from neurobento.anomaly.fit import fit_slice
from neurobento.errors import (
    ClientGone,
    NotOnNetworkGrid,
    PreprocessingFailed,
    ScanError,
    ServiceUnavailable,
    UnknownFormat,
)
from neurobento.imaging.scan import read_scan
from neurobento.imaging.slices.reader import read_slice
from neurobento.parcellation.parcellator import prepare
from neurobento.serving.pool import pool as pool_module
from neurobento.serving.pool import process as process_module
from neurobento.serving.pool import queue as queue_module
from neurobento.serving.pool import worker
from neurobento.serving.pool.pool import PreprocessingPool
from neurobento.serving.pool.serialisation import unpack_scan, unpack_slice
from neurobento.serving.process.child_process import NICENESS
from neurobento.serving.telemetry.metrics import RESTARTS
from neurobento.spec import REPORT_A_VERSION, SCAN_PREPROCESSING
from tests.neurobento.imaging.slices.files import grey, grey_png
from tests.neurobento.serving.waiting import wait_for, wait_for_async

ROOT = Path(__file__).resolve().parents[4]
FOLDERS = "neurobento-scan-*"
IMPORT_NOTHING = operator.truth
"""In place of a function of threads and versions; a new process can unpickle it."""

GRANDCHILD = functools.partial(subprocess.Popen, ["sleep", "60"], start_new_session=True)
"""As ROBEX is started: in a session of its own, which no signal to a group reaches."""


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that its parent has yet to see."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def spawned() -> set[int]:
    """Children of this process that a pool started."""
    return {
        child.pid
        for child in psutil.Process().children()
        if not ended(child.pid) and "spawn_main" in " ".join(child.cmdline())
    }


class Driver:
    """A pool, and the event loop that it is used from, in steps."""

    def __init__(self, loop: asyncio.Runner, pool: PreprocessingPool) -> None:
        self.loop, self.pool = loop, pool

    def prepare(self, path: Path, preprocessing: str = "none", ticket: str = "t") -> dict[str, Any]:
        return self.loop.run(asyncio.wait_for(self._prepare(path, preprocessing, ticket), 20))

    def begin(
        self, path: Path, preprocessing: str = "none", ticket: str = "t"
    ) -> asyncio.Task[Any]:
        """A scan under way: as far as a process has it, or it waits in the queue."""

        async def begin() -> asyncio.Task[Any]:
            before = self._accepted()
            task = asyncio.ensure_future(self._prepare(path, preprocessing, ticket))
            fact = lambda: task.done() or self._accepted() > before  # noqa: E731
            await wait_for_async(fact, "a process or the queue to have the scan")
            return task

        return self.loop.run(begin())

    def result(self, task: asyncio.Task[Any]) -> dict[str, Any]:
        async def result() -> Any:
            return await asyncio.wait_for(asyncio.shield(task), 20)

        return self.loop.run(result())

    def end(self, ticket: str = "t") -> None:
        self.loop.run(self.pool.end(ticket))

    def give_up(self, task: asyncio.Task[Any], ticket: str = "t") -> None:
        """End the work of a ticket, whose caller learns of it."""
        self.end(ticket)
        with pytest.raises(ClientGone):
            self.result(task)

    def idle(self, seconds: float) -> None:
        self.loop.run(asyncio.sleep(seconds))

    def warm(self, queue: str = "quick") -> bool:
        """Whether the one process of a queue is ready."""
        (process,) = self.pool._queues[queue]._workers
        return bool(process.ready)

    def pid(self, queue: str = "quick") -> int:
        (process,) = self.pool._queues[queue]._workers
        return int(process._process.pid)

    def _accepted(self) -> int:
        """Count the scans that processes have, by their folders, and those that wait."""
        queues = self.pool._queues.values()
        waiting = sum(len(queue._free._getters) for queue in queues)  # type: ignore[attr-defined]
        return waiting + len(list(Path(tempfile.gettempdir()).glob(FOLDERS)))

    async def _prepare(self, path: Path, preprocessing: str, ticket: str) -> dict[str, Any]:
        return await self.pool.prepare(path, preprocessing, ticket)  # type: ignore[arg-type]


@contextlib.contextmanager
def driven(imports: Callable[[], Any] | None = None) -> Iterator[Driver]:
    """A pool with one process in each lane, neither of which imports the heavy libraries."""
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as loop:
        patch.setattr(pool_module, "import_toolkits", IMPORT_NOTHING)
        patch.setattr(pool_module, "import_readers", imports or bool)
        driver = Driver(loop, PreprocessingPool(processes=1, threads=1))
        try:
            loop.run(driver.pool.start())
            yield driver
        finally:
            loop.run(driver.pool.close())


@pytest.fixture(scope="module", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the pools' folders go, apart from those of servers that run on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("temporary")
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[Driver]:
    with driven() as driver:
        yield driver


@pytest.fixture
def pool(shared_pool: Driver, temporary: Path) -> Iterator[Driver]:
    """A pool that a test leaves idle, and nothing of its scans behind."""
    yield shared_pool
    for ticket in (left := list(shared_pool.pool._running)):
        shared_pool.end(ticket)
    assert left == [], "a test left a scan under way"
    assert not list(temporary.glob(FOLDERS))


@pytest.fixture
def image(known_labels: Callable[[int], Any]) -> Any:
    return (known_labels(31) / np.float32(116)).astype(np.float32)


@pytest.fixture
def scan(write_nifti: Callable[..., Path], image: Any) -> Path:
    return write_nifti(image)


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A scan that takes for ever: opening it waits for somebody to write to it."""
    path = tmp_path / "endless.nii"
    os.mkfifo(path)
    return path


def test_a_prepared_scan_equals_the_one_prepared_in_process(pool: Driver, scan: Path) -> None:
    found, expected = unpack_scan(pool.prepare(scan)), prepare(read_scan(scan), "none", 1)
    assert np.array_equal(found.image, expected.image)
    assert found.image.dtype == expected.image.dtype
    assert np.array_equal(found.grid.network_voxel_to_ras, expected.grid.network_voxel_to_ras)
    assert np.array_equal(found.space.voxel_to_ras, expected.space.voxel_to_ras)
    assert found.space.header.binaryblock == expected.space.header.binaryblock
    assert (found.space.shape, found.preprocessing) == (
        expected.space.shape,
        expected.preprocessing,
    )


@pytest.mark.slow
def test_a_scan_without_skull_is_prepared_as_in_process(phantom: Any, write_nifti: Any) -> None:
    path = write_nifti(phantom.image, phantom.affine)
    with asyncio.Runner() as loop:
        pool = PreprocessingPool(1, len(os.sched_getaffinity(0)), versions={*SCAN_PREPROCESSING})
        try:
            loop.run(pool.start())
            packed = {
                version: loop.run(pool.prepare(path, "stripped", f"t{version}", version))
                for version in SCAN_PREPROCESSING
            }
            prepared = {version: unpack_scan(values) for version, values in packed.items()}
        finally:
            loop.run(pool.close())
    for version, found in prepared.items():
        expected = prepare(read_scan(path), "stripped", version)
        # equal intensities of the phantom may be ranked by their rounding, which threads change
        other = np.abs(found.image - expected.image) > 1e-6
        assert other.mean() <= (0 if version == REPORT_A_VERSION else 1e-4)
        assert found.grid.network_voxel_to_ras == pytest.approx(expected.grid.network_voxel_to_ras)
        assert found.seconds.keys() == {"decode", *expected.seconds}
        assert (found.brain is None) == (expected.brain is None)


def test_one_process_prepares_one_scan_after_another_at_a_lower_priority(
    pool: Driver, scan: Path
) -> None:
    """A keyboard interrupt, which reaches every process of a terminal, is left to the parent."""
    before = pool.pid()
    answers = [pool.prepare(scan) for _ in range(3)]
    assert psutil.Process(before).nice() == max(psutil.Process().nice(), NICENESS)
    os.kill(before, signal.SIGINT)
    answers.append(pool.prepare(scan))
    assert all("image" in answer for answer in answers)
    assert pool.pid() == before != os.getpid()


@pytest.mark.parametrize("kind", [UnknownFormat, NotOnNetworkGrid])
def test_an_error_comes_back_as_itself_and_the_process_lives_on(
    kind: type[ScanError], pool: Driver, scan: Path, phantom: Any, write_nifti: Any
) -> None:
    before = pool.pid()
    path = write_nifti(phantom.image, phantom.affine, "JANE_DOE.nii")
    if kind is UnknownFormat:
        path.write_text("not a scan\n" * 100)
    packed = pool.prepare(path)
    assert "JANE_DOE" not in repr(packed)
    with pytest.raises(ScanError) as caught:
        unpack_scan(packed)
    assert type(caught.value) is kind
    assert "image" in pool.prepare(scan)
    assert pool.pid() == before


@pytest.mark.parametrize(
    ("preprocessing", "unpack", "place"),
    [("none", unpack_scan, "scan"), ("slice", unpack_slice, "reader")],
)
def test_an_unexpected_error_is_reported_by_class_and_line_alone(
    pool: Driver, tmp_path: Path, preprocessing: str, unpack: Any, place: str
) -> None:
    """A file that is gone by the time it is read: the words of that error are its path."""
    packed = pool.prepare(tmp_path / "JANE_DOE.nii", preprocessing)
    assert "JANE_DOE" not in repr(packed)
    with pytest.raises(PreprocessingFailed, match=rf"FileNotFoundError in {place}, line \d+"):
        unpack(packed)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError("JANE_DOE"), "memory"),
        (OSError(errno.ENOMEM, "JANE_DOE"), "memory"),
        (OSError(errno.ENOSPC, "JANE_DOE"), "disk space"),
    ],
)
def test_a_lack_of_memory_or_disk_is_not_blamed_on_the_scan(
    error: Exception, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr(worker, "read_scan", fail)
    packed = worker.prepare_file(Path("scan"), "none", Path("image"))
    assert "JANE_DOE" not in repr(packed)
    with pytest.raises(ServiceUnavailable, match=what) as caught:
        unpack_scan(packed)
    assert caught.value.retry_after_s


def test_a_process_without_memory_says_so_and_lives_on(pool: Driver, scan: Path) -> None:
    pool.prepare(scan)
    process = psutil.Process(pool.pid())
    # having answered, it lets go of what it answered
    pool.idle(0.3)
    # less than the voxels take, and enough for all else
    room, unlimited = process.memory_info().vms + (4 << 20), resource.RLIM_INFINITY
    process.rlimit(resource.RLIMIT_AS, (room, unlimited))
    try:
        packed = pool.prepare(scan)
    finally:
        process.rlimit(resource.RLIMIT_AS, (unlimited, unlimited))
    with pytest.raises(ServiceUnavailable, match="memory"):
        unpack_scan(packed)
    assert "image" in pool.prepare(scan)
    assert pool.pid() == process.pid


def test_a_quick_scan_does_not_wait_for_a_slow_one(pool: Driver, scan: Path, endless: Path) -> None:
    slow = pool.begin(endless, "stripped")
    assert "image" in pool.prepare(scan, ticket="quick")
    assert not slow.done()
    pool.give_up(slow)


def test_a_slice_is_read_and_fitted_as_in_process_beside_a_slow_scan(
    pool: Driver, endless: Path, tmp_path: Path
) -> None:
    path = tmp_path / "JANE_DOE.png"
    path.write_bytes(grey_png(grey()))
    slow = pool.begin(endless, "stripped")
    found = unpack_slice(pool.prepare(path, "slice", ticket="quick"))
    assert not slow.done()
    pool.give_up(slow)
    expected = fit_slice(read_slice(path))
    assert np.array_equal(found.pixels, read_slice(path))
    assert np.array_equal(found.fitted.image, expected.image)
    assert (found.fitted.corner, found.fitted.edge) == (expected.corner, expected.edge)
    assert found.seconds.keys() == {"decode", "fit"}


def test_scans_of_a_queue_are_prepared_in_the_order_in_which_they_came(
    pool: Driver, scan: Path, endless: Path, tmp_path: Path
) -> None:
    first = pool.begin(endless, ticket="first")
    waiting = [pool.begin(scan, ticket=f"{i}") for i in range(3)]
    order: list[int] = []

    def note(number: int, _: Any) -> None:
        order.append(number)

    for i, task in enumerate(waiting):
        task.add_done_callback(functools.partial(note, i))
    assert not any(task.done() for task in (first, *waiting))
    pool.give_up(first, "first")
    for task in reversed(waiting):
        pool.result(task)
    assert order == [0, 1, 2]


def test_ending_a_ticket_kills_its_process_and_the_next_scan_is_prepared(
    pool: Driver, scan: Path, endless: Path, temporary: Path
) -> None:
    before, restarts = pool.pid(), RESTARTS.labels("preprocessing")._value.get()
    task = pool.begin(endless)
    assert len(list(temporary.glob(FOLDERS))) == 1
    pool.end()
    assert ended(before)
    assert not list(temporary.glob(FOLDERS))
    with pytest.raises(ClientGone):
        pool.result(task)
    assert "image" in pool.prepare(scan)
    assert pool.pid() != before
    assert RESTARTS.labels("preprocessing")._value.get() == restarts + 1


def test_a_caller_that_is_cancelled_ends_its_work_too_and_all_work_is_ended_at_once(
    pool: Driver, scan: Path, endless: Path
) -> None:
    """A starting service ends what a killed one had asked for."""
    before = pool.pid()
    task = pool.begin(endless)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        pool.result(task)
    wait_for(lambda: ended(before), "the process to end")
    assert "image" in pool.prepare(scan)
    tasks = [pool.begin(endless, ticket="first"), pool.begin(scan, ticket="second")]
    pool.loop.run(pool.pool.end_all())
    for task in tasks:
        with pytest.raises(ClientGone):
            pool.result(task)
    assert "image" in pool.prepare(scan)


def test_a_process_that_hangs_as_it_starts_is_started_again(scan: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(process_module, "START_LIMIT_S", 1.0)
            pool = stack.enter_context(driven(functools.partial(hang_without, flag)))
        assert not pool.warm()
        flag.touch()
        assert "image" in pool.prepare(scan)


def hang_without(flag: Path) -> None:
    """Hang as a process starts, unless there is a file."""
    if not flag.exists():
        time.sleep(60)


def test_ending_a_scan_that_waits_leaves_the_one_ahead_alone(
    pool: Driver, scan: Path, endless: Path
) -> None:
    before = pool.pid()
    ahead, waiting = pool.begin(endless, ticket="ahead"), pool.begin(scan, ticket="waiting")
    pool.give_up(waiting, "waiting")
    assert not ahead.done()
    assert pool.pid() == before
    assert not ended(before)
    pool.give_up(ahead, "ahead")
    assert "image" in pool.prepare(scan)


def test_ending_what_is_over_or_never_was_ends_nothing(pool: Driver, scan: Path) -> None:
    """An end that comes before its scan is not forgotten."""
    pool.prepare(scan, ticket="over")
    before = pool.pid()
    for ticket in ("over", "never", "overtaken"):
        pool.end(ticket)
    assert "image" in pool.prepare(scan)
    with pytest.raises(ClientGone):
        pool.prepare(scan, ticket="overtaken")
    assert "image" in pool.prepare(scan, ticket="another")
    assert pool.pid() == before


def test_what_a_process_started_ends_with_it(scan: Path, endless: Path) -> None:
    with driven(GRANDCHILD) as pool:
        (grandchild,) = psutil.Process(pool.pid()).children()
        pool.give_up(pool.begin(endless))
        wait_for(lambda: ended(grandchild.pid), "what the process started to end")
        assert "image" in pool.prepare(scan)
        (again,) = psutil.Process(pool.pid()).children()
    wait_for(lambda: ended(again.pid), "what the next one started to end with the pool")


FORKS = 300


def start_many(mark: str) -> None:
    """Let this process start one after the other, each on its own, until it is stopped."""

    def start() -> None:
        for _ in range(FORKS):
            subprocess.Popen(["sleep", mark], start_new_session=True)

    threading.Thread(target=start, daemon=True).start()


def test_what_a_process_starts_as_it_is_ended_ends_with_it() -> None:
    mark = f"60.{os.getpid()}"

    def left() -> list[psutil.Process]:
        found = []
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if each.cmdline() == ["sleep", mark]:
                    found.append(each)
        return found

    with driven(functools.partial(start_many, mark)) as pool:
        wait_for(left, "the process to start others")
        (process,) = pool.pool._queues["quick"]._workers
        process.kill()
        survivors = left()
        for each in survivors:
            each.kill()
    assert survivors == []


def start_another_and_hang() -> None:
    """Let this process's scans start what ROBEX is: named by its scan's folder, and on its own."""

    def hang(path: Path, kind: str, image: Path, version: int) -> None:
        sleep = [sys.executable, "-c", "import time; time.sleep(60)", f"{tempfile.tempdir}/head"]
        subprocess.Popen(sleep, start_new_session=True)
        time.sleep(60)

    worker.prepare_file = hang  # type: ignore[assignment]


def test_what_a_process_had_started_ends_when_it_is_killed(scan: Path, temporary: Path) -> None:
    def started() -> list[psutil.Process]:
        (folder,) = temporary.glob(FOLDERS)
        return [
            child
            for child in psutil.Process(pool.pid()).children()
            if f"{folder}/head" in child.cmdline()
        ]

    with driven(start_another_and_hang) as pool:
        task = pool.begin(scan)
        (other,) = wait_for(started, "the process to start another")
        os.kill(pool.pid(), signal.SIGKILL)
        with pytest.raises(ServiceUnavailable):
            pool.result(task)
        wait_for(lambda: ended(other.pid), "what the process had started to end")


def test_a_busy_process_that_is_killed_costs_one_scan(
    pool: Driver, scan: Path, endless: Path
) -> None:
    before = pool.pid()
    task = pool.begin(endless)
    os.kill(before, signal.SIGKILL)
    with pytest.raises(ServiceUnavailable) as caught:
        pool.result(task)
    assert caught.value.retry_after_s
    assert "image" in pool.prepare(scan)
    assert pool.pid() != before


def test_an_idle_process_that_is_killed_costs_no_scan_and_is_replaced_at_once(
    pool: Driver, scan: Path
) -> None:
    pool.prepare(scan)
    before = pool.pid()
    os.kill(before, signal.SIGKILL)
    # until its last thread is gone; it is left for the pool to find
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
    assert "image" in pool.prepare(scan)
    assert pool.pid() != before
    for _ in range(2):
        os.kill(before := pool.pid(), signal.SIGKILL)
        wait_for(lambda last=before: _replaced(pool, last), "another")
        assert not psutil.pid_exists(before)
        before = pool.pid()
        assert "image" in pool.prepare(scan)
        assert pool.pid() == before


def _replaced(pool: Driver, last: int) -> bool:
    pool.idle(0.05)
    return pool.warm() and pool.pid() != last


def test_a_process_that_dies_as_it_starts_is_started_until_it_lives(
    scan: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    with driven(functools.partial(os.stat, flag)) as pool:
        waiting = pool.begin(scan)
        pool.idle(0.5)
        assert not waiting.done()
        flag.touch()
        assert "image" in pool.result(waiting)


def answer(pool: Driver, scan: Path) -> dict[str, Any]:
    """What comes of a scan; nothing while there is no process for it."""
    with contextlib.suppress(ServiceUnavailable):
        return pool.prepare(scan)
    return {}


def test_nobody_waits_for_a_process_that_never_starts(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "MAX_STARTS", 1)
    flag = tmp_path / "flag"
    with driven(functools.partial(os.stat, flag)) as pool:
        waiting = [pool.begin(scan, ticket=name) for name in ("first", "second")]
        for task in waiting:
            with pytest.raises(ServiceUnavailable):
                pool.result(task)
        with pytest.raises(ServiceUnavailable):
            pool.prepare(scan)
        flag.touch()
        assert "image" in wait_for(lambda: answer(pool, scan), "a process to start")


def fail_in_a_library() -> None:
    """As a process starts: what a library that logs it would have to say."""
    try:
        raise ValueError("JANE_DOE")
    except ValueError:
        logging.getLogger("a.library").exception("failed")


def test_a_process_logs_none_of_an_exceptions_words(capfd: pytest.CaptureFixture[str]) -> None:
    with driven(fail_in_a_library):
        pass
    said = capfd.readouterr().err
    assert "failed (ValueError in fail_in_a_library, line " in said
    assert "JANE_DOE" not in said


def test_a_process_that_the_system_refuses_is_started_later(
    scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(process: SpawnProcess) -> None:
        raise BlockingIOError(errno.EAGAIN, "fork")

    with contextlib.ExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setattr(SpawnProcess, "start", fail)
            with driven():
                pass  # and what never started is not ended
            pool = stack.enter_context(driven())
        assert "image" in pool.prepare(scan)


def test_closing_ends_all_and_starts_nothing(scan: Path, endless: Path, temporary: Path) -> None:
    left = temporary / "neurobento-scan-left"
    (left / "more").mkdir(parents=True)
    others = spawned()
    with driven() as pool:
        assert not left.exists(), "a folder of a pool that was killed is still there"
        children = spawned() - others
        assert len(children) == 2
        tasks = [
            pool.begin(endless, preprocessing, preprocessing) for preprocessing in ("none", "full")
        ]
        tasks.append(pool.begin(scan, ticket="waiting"))
        pool.loop.run(pool.pool.close())
        pool.idle(0.3)
        assert all(task.done() for task in tasks)
        for task in tasks:
            with pytest.raises(ClientGone):
                pool.result(task)
        assert all(map(ended, children))
        assert spawned() == others
        assert not list(temporary.glob(FOLDERS))


PARENT = """
import asyncio, operator, sys
from pathlib import Path
from neurobento.serving.pool import pool
from neurobento.serving.pool.pool import PreprocessingPool

async def main():
    pool.import_toolkits = operator.truth
    workers = PreprocessingPool(processes=1, threads=1)
    await workers.start()
    print(*(queue._workers[0]._process.pid for queue in workers._queues.values()), flush=True)
    await workers.prepare(Path(sys.argv[1]), "full", "ticket")

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_children_idle_and_busy_end_with_a_parent_that_is_killed(
    endless: Path, tmp_path: Path, temporary: Path
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    parent = subprocess.Popen(
        [sys.executable, script, endless], env=environment, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        wait_for(lambda: list(temporary.glob(FOLDERS)), "a scan to be under way")
        assert len(children) == 2
        assert not any(map(ended, children))
        parent.kill()
    wait_for(lambda: all(map(ended, children)), "the children to end")
    for left in temporary.glob(FOLDERS):
        shutil.rmtree(left)
