"""Preprocessing in processes of its own, each of which can be ended in the middle of a scan.

BentoML's `workers=N` was seen to give all work to one of them; here a scan goes
to whichever process is free. Scans on the network grid already and slices, which take
a moment, have a process of their own and never wait behind a head with skull.
The children are spawned, hold one file at a time, and die with their parent: what a file
does to a decoder happens in them alone.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import functools
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from neurobento.anomaly.fit import fit_slice
from neurobento.errors import (
    ClientGone,
    NeuroBentoError,
    PreprocessingFailed,
    ServiceUnavailable,
)
from neurobento.imaging.scan import read_scan
from neurobento.imaging.slices.reader import read_slice
from neurobento.parcellation.parcellator import prepare
from neurobento.preprocessing.mode import Preprocessing
from neurobento.preprocessing.threads import limit_threads
from neurobento.serving.admission import Kind, QueueName, queue_for
from neurobento.serving.pool.serialisation import pack_error, pack_scan, pack_slice
from neurobento.serving.process.exhaustion import exhaustion_error, map_exhaustion
from neurobento.serving.process.parent import die_with_parent
from neurobento.serving.process.priority import lower_priority
from neurobento.serving.process.run_folder import remove_leftovers
from neurobento.serving.telemetry import metrics
from neurobento.serving.telemetry.logs import set_up_logging

__all__ = ["PreprocessingPool"]

FOLDER_PREFIX = "neurobento-scan-"
READY = "ready"
START_LIMIT_S = 120.0
TRIES = 3
"""After so many that died as they started, nobody is left waiting for the next."""


class PreprocessingPool:
    """A pool of processes that read and prepare scans and slices; used from one event loop.

    Parameters
    ----------
    processes
        Scans with or without skull that are prepared at the same time.
    threads
        Threads for each.
    """

    def __init__(self, processes: int, threads: int) -> None:
        import_all = functools.partial(_import_all, threads)
        self._lanes: dict[QueueName, _Lane] = {
            "slow": _Lane([_Child(threads, import_all) for _ in range(processes)]),
            "quick": _Lane([_Child(threads, _import_readers)]),
        }
        self._under_way: dict[str, asyncio.Task[Any]] = {}
        # the end of a ticket may come before its scan: they come by two connections
        self._ended: collections.deque[str] = collections.deque(maxlen=1000)
        self._starting: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start all processes; return once the quick one is warm, and the others go on."""
        # of a pool that was killed; its children are dead or dying
        remove_leftovers(FOLDER_PREFIX)
        slow, quick = (asyncio.ensure_future(lane.start()) for lane in self._lanes.values())
        self._starting = slow
        await quick

    @property
    def warm(self) -> bool:
        """Whether scans of every level have been taken since the start."""
        return all(lane.begun for lane in self._lanes.values())

    async def prepare(self, path: Path, kind: Kind, ticket: str) -> dict[str, Any]:
        """What was made of a file or the error it met, packed; see `neurobento.serving.pool.serialisation`.

        Parameters
        ----------
        path, kind
            Of the file; what to make of it. The image is put beside it.
        ticket
            Names the work, to end it by, and the image.

        Raises
        ------
        ServiceUnavailable
            The process died, and is being replaced; or none can be started.
        ClientGone
            The work was ended; its process is gone, and what it had written too.
        """
        if ticket in self._ended:
            raise _gone()
        task = asyncio.ensure_future(self._lanes[queue_for(kind)].prepare(path, kind, ticket))
        self._under_way[ticket] = task
        try:
            return await task
        except asyncio.CancelledError:
            ours = asyncio.current_task()
            if not task.cancelled() or (ours is not None and ours.cancelling()):
                raise
            raise _gone() from None
        finally:
            del self._under_way[ticket]

    async def end(self, ticket: str) -> None:
        """End the work of a ticket, and wait until it has ended; one to come is not begun."""
        task = self._under_way.get(ticket)
        if task is None:
            self._ended.append(ticket)
        else:
            task.cancel()
            await asyncio.wait({task})

    async def end_all(self) -> None:
        """End all work that is going on, and wait until it has ended."""
        for ticket in list(self._under_way):
            await self.end(ticket)

    async def close(self) -> None:
        """End all children, in the middle of a scan too."""
        tasks: set[asyncio.Future[Any]] = set(self._under_way.values())
        if self._starting is not None:
            tasks.add(self._starting)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        # last, as work that was ended begins a renewal
        for lane in self._lanes.values():
            await lane.close()


class _Lane:
    """Children that take scans in the order in which they came."""

    def __init__(self, children: list[_Child]) -> None:
        self._children = children
        self._free: asyncio.Queue[_Child] = asyncio.Queue()
        self._idle: set[_Child] = set()
        self._renewing: set[_Child] = set()
        self._hopeless = asyncio.Event()
        self._renewals: set[asyncio.Task[None]] = set()
        self.begun = False

    async def start(self) -> None:
        await asyncio.gather(*(self._start(child) for child in self._children))

    async def _start(self, child: _Child) -> None:
        if await child.start():
            self._take(child)
        else:
            self._begin_renewal(child)

    def _take(self, child: _Child) -> None:
        self.begun = True
        self._hopeless.clear()
        self._put(child)

    def _put(self, child: _Child) -> None:
        # one that was renewed while it waited here is here already
        if child not in self._idle:
            self._idle.add(child)
            self._free.put_nowait(child)
        child.watch(self._look_after)

    def _look_after(self, child: _Child) -> None:
        """Replace a child that was killed while it had nothing to do."""
        if child in self._idle:
            self._begin_renewal(child)

    async def prepare(self, path: Path, kind: Kind, ticket: str) -> dict[str, Any]:
        came = time.monotonic()
        while not (child := await self._next()).warm:
            self._begin_renewal(child)
        metrics.WAIT_SECONDS.labels(kind).observe(time.monotonic() - came)
        try:
            return await child.prepare(path, kind, ticket)
        finally:
            if child.alive:
                self._put(child)
            else:
                self._begin_renewal(child)

    async def _next(self) -> _Child:
        """The next child that is free, unless there is no hope of one."""
        child = asyncio.ensure_future(self._free.get())
        hopeless = asyncio.ensure_future(self._hopeless.wait())
        try:
            await asyncio.wait({child, hopeless}, return_when=asyncio.FIRST_COMPLETED)
            if not child.done():
                raise _died()
            self._idle.discard(child.result())
            return child.result()
        except asyncio.CancelledError:
            if child.done() and not child.cancelled():
                self._idle.discard(child.result())
                self._put(child.result())
            raise
        finally:
            child.cancel()
            hopeless.cancel()

    def _begin_renewal(self, child: _Child) -> None:
        if child in self._renewing:
            return
        self._renewing.add(child)
        renewal = asyncio.ensure_future(self._renew(child))
        self._renewals.add(renewal)
        renewal.add_done_callback(self._renewals.discard)

    async def _renew(self, child: _Child) -> None:
        metrics.RESTARTS.labels("preprocessing").inc()
        tries = 0
        while not await child.start():
            tries += 1
            if tries >= TRIES and not any(child.warm for child in self._children):
                self._hopeless.set()
            # a process that dies while it starts is not started again in a hurry
            await asyncio.sleep(1.0)
        self._renewing.discard(child)
        self._take(child)

    async def close(self) -> None:
        for renewal in self._renewals:
            renewal.cancel()
        await asyncio.gather(*self._renewals, return_exceptions=True)
        for child in self._children:
            child.end()


class _Child:
    """One process at a time, and the pipe to it."""

    def __init__(self, threads: int, imports: Callable[[], None]) -> None:
        self._threads, self._imports = threads, imports
        self._process: Any = None
        self._watched: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._pipe: Connection | None = None
        # the loop's own threads are few, and a reader is held as long as a scan takes
        self._reader = ThreadPoolExecutor(1)
        self._ready = False

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.is_alive()

    @property
    def warm(self) -> bool:
        """Whether there is one that takes scans."""
        return self._ready and self.alive

    def watch(self, look_after: Callable[[_Child], None]) -> None:
        """Tell when the process ends, however it does."""
        if self._watched is None and self._process is not None:
            loop = asyncio.get_running_loop()
            self._watched = loop, self._process.sentinel
            loop.add_reader(self._process.sentinel, self._tell, look_after)

    def _tell(self, look_after: Callable[[_Child], None]) -> None:
        self._forget()
        look_after(self)

    def _forget(self) -> None:
        if self._watched is not None:
            loop, sentinel = self._watched
            self._watched = None
            if not loop.is_closed():
                loop.remove_reader(sentinel)

    async def start(self) -> bool:
        """Start a process and wait until it is warm; whether it got there."""
        # one that was killed tells so a moment before the system lets it be waited for
        self.end()
        spawn = get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        arguments = (theirs, self._threads, self._imports, os.getpid())
        process = spawn.Process(target=_live, args=arguments, daemon=True)
        try:
            # not in another thread: the system ends a child with the thread that started it
            process.start()
        except OSError:
            return False
        finally:
            # held by the child alone, so that its end is the end of the pipe
            theirs.close()
        self._process = process
        try:
            said = await asyncio.wait_for(self._received(), START_LIMIT_S)
        except (EOFError, OSError, TimeoutError):
            self.end()
            return False
        self._ready = bool(said == READY)
        return self._ready

    async def _received(self) -> Any:
        assert self._pipe is not None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, self._pipe.recv)

    async def prepare(self, path: Path, kind: Kind, ticket: str) -> dict[str, Any]:
        """What was made of a file or an error, packed."""
        assert self._pipe is not None
        with map_exhaustion():
            folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX)
        try:
            self._pipe.send((path, kind, folder, ticket))
            answer: dict[str, Any] = await self._received()
            return answer
        except (EOFError, OSError):
            self.end()
            _end_left(folder)
            raise _died() from None
        except asyncio.CancelledError:
            self.end()
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def end(self) -> None:
        """Kill the process and all it started; a thread that waits for it wakes up."""
        self._forget()
        # the number of a dead process may be another's by now
        if self.alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                _end_all(psutil.Process(self._process.pid))
            self._process.join()
        self._process, self._ready = None, False


def _end_all(process: psutil.Process) -> None:
    """End a process and all it started, held still meanwhile: it could start one more."""
    with contextlib.suppress(psutil.Error):
        process.suspend()
        for child in process.children():
            _end_all(child)
        process.kill()


def _end_left(folder: str) -> None:
    """End what a dead child had started for a scan: its command line names the scan's folder."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(folder in argument for argument in process.cmdline()):
                process.kill()


def _gone() -> ClientGone:
    return ClientGone(
        expected="a client that waits",
        found="that it asked to end the work",
        remedy="Nothing was kept.",
    )


def _died() -> ServiceUnavailable:
    return ServiceUnavailable(
        expected="a preprocessing process that answers",
        found="that it died",
        remedy="It is being replaced; try again in a few seconds.",
        retry_after_s=5.0,
    )


def _live(pipe: Connection, threads: int, imports: Callable[[], None], parent: int) -> None:
    """A child's life: names of files come in through the pipe, answers go out."""
    # SIGTERM as an exception: ROBEX is ended on the way out
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    # a Ctrl-C reaches the whole terminal; the parent ends its children itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_up_logging()
    lower_priority()
    limit_threads(threads)
    imports()
    pipe.send(READY)
    with contextlib.suppress(EOFError):
        while True:
            path, kind, folder, ticket = pipe.recv()
            # whatever a library leaves behind goes with the folder
            tempfile.tempdir = folder
            pipe.send(_prepared(path, kind, path.with_name(f"{ticket}.image")))


def _import_all(threads: int) -> None:
    import ants  # noqa: F401
    import monai.transforms  # noqa: F401
    import torch

    torch.set_num_threads(threads)


def _import_readers() -> None:
    """Level `none` and slices are read and checked, which needs none of the heavy libraries."""
    import PIL.Image
    import pydicom.pixels  # noqa: F401
    import scipy.ndimage  # noqa: F401

    # the formats' own modules, which Pillow would look for at the first picture
    PIL.Image.preinit()


def _prepared(path: Path, kind: Kind, image: Path) -> dict[str, Any]:
    """What was made of a file or the error it met, packed; the large array goes into `image`."""
    try:
        return _slice(path, image) if kind == "slice" else _scan(path, kind, image)
    except NeuroBentoError as error:
        return pack_error(error)
    # whatever a library raises over a scan: its words may hold a path, its kind does not
    except Exception as error:
        if (lacking := exhaustion_error(error)) is not None:
            return pack_error(lacking)
        another = "" if kind == "slice" else "try another preprocessing, or "
        return pack_error(
            PreprocessingFailed(
                expected="preprocessing to run through",
                found=f"{type(error).__name__} in {_place(error)}",
                remedy=f"The same file will fail again; {another}report it.",
            )
        )


def _scan(path: Path, preprocessing: Preprocessing, image: Path) -> dict[str, Any]:
    start = time.perf_counter()
    scan = read_scan(path)
    decoded = time.perf_counter() - start
    prepared = prepare(scan, preprocessing)
    seconds = {"decode": decoded, **prepared.seconds}
    return pack_scan(dataclasses.replace(prepared, seconds=seconds), image)


def _slice(path: Path, image: Path) -> dict[str, Any]:
    start = time.perf_counter()
    pixels = read_slice(path)
    decoded = time.perf_counter()
    fitted = fit_slice(pixels)
    seconds = {"decode": decoded - start, "fit": time.perf_counter() - decoded}
    return pack_slice(pixels, fitted, seconds, image)


def _place(error: BaseException) -> str:
    """Module and line of ours where an exception came through last."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "neurobento" in Path(f.filename).parts]
    return f"{Path(ours[-1].filename).stem}, line {ours[-1].lineno}" if ours else "a library"
