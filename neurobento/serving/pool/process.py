"""Start, use and kill one worker process from the service's side of the pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from neurobento.errors import ServiceUnavailable
from neurobento.serving.admission import Kind
from neurobento.serving.pool.worker import READY, run_worker
from neurobento.serving.process.exhaustion import map_exhaustion
from neurobento.spec import REPORT_A_VERSION

__all__ = ["FOLDER_PREFIX", "WorkerProcess", "worker_died"]

FOLDER_PREFIX = "neurobento-scan-"
START_LIMIT_S = 120.0
"""A process that has not imported its libraries by then is killed."""


class WorkerProcess:
    """One worker process at a time, and the pipe to it."""

    def __init__(self, threads: int, import_libraries: Callable[[], None]) -> None:
        self._threads, self._import_libraries = threads, import_libraries
        self._process: Any = None
        self._pipe: Connection | None = None
        self._watched: tuple[asyncio.AbstractEventLoop, int] | None = None
        # a thread of its own: a scan blocks it for minutes, and the event loop's threads are few
        self._reader = ThreadPoolExecutor(1)
        self._is_ready = False

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    @property
    def ready(self) -> bool:
        return self._is_ready and self.alive

    def watch(self, on_end: Callable[[WorkerProcess], None]) -> None:
        """Call `on_end` once the process ends, for whatever reason."""
        if self._watched is None and self._process is not None:
            loop = asyncio.get_running_loop()
            self._watched = loop, self._process.sentinel
            loop.add_reader(self._process.sentinel, self._report_end, on_end)

    def _report_end(self, on_end: Callable[[WorkerProcess], None]) -> None:
        self._stop_watching()
        on_end(self)

    def _stop_watching(self) -> None:
        if self._watched is not None:
            loop, sentinel = self._watched
            self._watched = None
            if not loop.is_closed():
                loop.remove_reader(sentinel)

    async def start(self) -> bool:
        """Start a process and wait until it is ready; return False if it fails to start."""
        # a process just killed may still have to be waited for
        self.kill()
        spawn = get_context("spawn")
        self._pipe, child_end = spawn.Pipe()
        arguments = (child_end, self._threads, self._import_libraries, os.getpid())
        process = spawn.Process(target=run_worker, args=arguments, daemon=True)
        try:
            # not in another thread: the kernel ends a child with the thread that started it
            process.start()
        except OSError:
            return False
        finally:
            # only the child keeps it open, so that the pipe ends when the child does
            child_end.close()
        self._process = process
        try:
            message = await asyncio.wait_for(self._receive(), START_LIMIT_S)
        except (EOFError, OSError, TimeoutError):
            self.kill()
            return False
        self._is_ready = bool(message == READY)
        return self._is_ready

    async def _receive(self) -> Any:
        assert self._pipe is not None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, self._pipe.recv)

    async def prepare(
        self, path: Path, kind: Kind, ticket: str, version: int = REPORT_A_VERSION
    ) -> dict[str, Any]:
        """Return what the worker made of a file, packed; kill the worker if this is cancelled."""
        assert self._pipe is not None
        with map_exhaustion():
            folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX)
        try:
            self._pipe.send((path, kind, version, folder, ticket))
            packed: dict[str, Any] = await self._receive()
            return packed
        except (EOFError, OSError):
            self.kill()
            _kill_processes_naming(folder)
            raise worker_died() from None
        except asyncio.CancelledError:
            self.kill()
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def kill(self) -> None:
        """Kill the process and all that it started; a thread that waits for it wakes up."""
        self._stop_watching()
        # the id of a dead process may belong to another one by now
        if self.alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                _kill_tree(psutil.Process(self._process.pid))
            self._process.join()
        self._process, self._is_ready = None, False


def _kill_tree(process: psutil.Process) -> None:
    """Kill a process and all that it started; suspend it first, so that it starts no more."""
    with contextlib.suppress(psutil.Error):
        process.suspend()
        for child in process.children():
            _kill_tree(child)
        process.kill()


def _kill_processes_naming(folder: str) -> None:
    """Kill what a dead worker had started for a scan: its command line names the scan's folder."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(folder in argument for argument in process.cmdline()):
                process.kill()


def worker_died() -> ServiceUnavailable:
    return ServiceUnavailable(
        expected="a preprocessing process that answers",
        found="one that died",
        remedy="It is being replaced; try again in a few seconds. If the same scan ends it again, "
        "look into the server's log.",
        retry_after_s=5.0,
    )
