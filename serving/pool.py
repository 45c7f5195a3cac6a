"""Preprocessing in processes of its own, so that a scan's steps never share a GIL.

BentoML's `workers=N` was seen to give all work to one of them; a pool shares
fairly. The children are spawned, hold one scan at a time, and die with their
parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from threading import Lock
from typing import Any

from neurobento.errors import NeuroBentoError, PreprocessingFailed
from neurobento.parcellation import prepare
from neurobento.preprocessing.levels import Level
from neurobento.preprocessing.threads import limit_threads
from neurobento.scan import read_scan
from serving.wire import pack_error, pack_prepared

__all__ = ["PreprocessingPool"]

CLOSE_LIMIT_S = 5.0
"""How long a child may take to tidy up; ANTs does not listen before its step is done."""

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
        """End the children, in the middle of a scan too; they tidy up after themselves."""
        children = list((self._executor._processes or {}).values())
        self._executor.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.terminate()
        for child in children:
            child.join(CLOSE_LIMIT_S)
            child.kill()


def _begin_child(threads: int, parent: int) -> None:
    # SIGTERM as an exception: temporary folders go and ROBEX is ended on the way out
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
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
    # whatever a library raises over a scan: its words may hold a path, its kind does not
    except Exception as error:
        return pack_error(
            PreprocessingFailed(
                expected="preprocessing to run through",
                found=f"{type(error).__name__} in {_place(error)}",
                remedy="The same scan will fail again; try another level, or report it.",
            )
        )


def _place(error: BaseException) -> str:
    """Module and line of ours where an exception came through last."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "neurobento" in Path(f.filename).parts]
    return f"{Path(ours[-1].filename).stem}, line {ours[-1].lineno}" if ours else "a library"
