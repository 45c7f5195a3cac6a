"""Preprocessing in processes of its own, so that a scan's steps never share a GIL.

BentoML's `workers=N` was seen to give all work to one of them; a pool shares
fairly. The children are spawned, hold one scan at a time, and die with their
parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from threading import Lock
from typing import Any

from neurobento.errors import NeuroBentoError
from neurobento.parcellation import prepare
from neurobento.preprocessing.levels import Level
from neurobento.preprocessing.threads import limit_threads
from neurobento.scan import read_scan
from serving.wire import pack_error, pack_prepared

__all__ = ["PreprocessingPool"]

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a child gets when its parent dies."""


class PreprocessingPool:
    """A pool of processes that read and prepare scans.

    Parameters
    ----------
    processes
        Scans prepared at the same time.
    threads
        Threads for each.
    """

    def __init__(self, processes: int, threads: int) -> None:
        self._processes, self._threads = processes, threads
        self._lock = Lock()
        self._executor = self._start()

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._processes, get_context("spawn"), _begin_child, (self._threads, os.getpid())
        )

    def warm_up(self) -> None:
        """Have every child import what preprocessing needs."""
        for future in [self._executor.submit(_import_all) for _ in range(self._processes)]:
            future.result()

    def prepare(self, path: Path, level: Level) -> dict[str, Any]:
        """The scan on the network grid or the error it met, packed; see `serving.wire`.

        Raises
        ------
        BrokenProcessPool
            A child died; the pool is new for the next scan.
        """
        executor = self._executor
        try:
            return executor.submit(_prepare_in_child, path, level).result()
        except BrokenProcessPool:
            self._replace(executor)
            raise

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._executor is broken:
                broken.shutdown(wait=False)
                self._executor = self._start()

    def close(self) -> None:
        """End the children."""
        self._executor.shutdown(cancel_futures=True)


def _begin_child(threads: int, parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    # a Ctrl-C reaches the whole terminal; the parent ends its children itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_threads(threads)


def _import_all() -> None:
    import ants  # noqa: F401
    import monai.transforms  # noqa: F401
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def _prepare_in_child(path: Path, level: Level) -> dict[str, Any]:
    _import_all()
    try:
        return pack_prepared(prepare(read_scan(path), level))
    except NeuroBentoError as error:
        return pack_error(error)
