"""The server's first process: it makes the run folder, and drains the server before it stops."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from neurobento.errors import ConfigError
from neurobento.files import hold_folder
from neurobento.serving.process.run_folder import RunFolder
from neurobento.serving.settings import misspelt_variables, run_folder

__all__ = ["Drain", "hold_home", "set_up_main_process"]

POLL_S = 0.05

logger = logging.getLogger("neurobento.serving")


_HELD = contextlib.ExitStack()
"""Open until this process ends."""


def hold_home(arguments: Sequence[str], home: Path) -> None:
    """Hold BENTOML_HOME if this process is about to serve; SystemExit if another server holds it.

    BentoML removes the metrics of the other one as it starts, after it has imported the service.
    """
    is_child = run_folder() is not None
    command = next((word for word in arguments[1:] if not word.startswith("-")), "")
    if is_child or command != "serve":
        return
    home.mkdir(parents=True, exist_ok=True)
    try:
        _HELD.enter_context(hold_folder(home, "Give each server a BENTOML_HOME of its own."))
    except ConfigError as error:
        raise SystemExit(f"neurobento: {error}") from None


def set_up_main_process() -> None:
    """Make the run folder; call this in the process that will start all others."""
    run = RunFolder.make()
    run.make_current()
    atexit.register(_remove, run, os.getpid())
    for variable, meant in misspelt_variables().items():
        logger.warning("%s is not a setting and has no effect; did you mean %s?", variable, meant)


def _remove(run: RunFolder, owner: int) -> None:
    # a forked child inherits the handler and must keep the folder
    if os.getpid() == owner:
        run.remove()


class Drain:
    """Stops the server once its last request has ended; a second signal stops it at once."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._hurry = threading.Event()

    def __call__(self, stop: Callable[[], None]) -> None:
        """Begin to drain, and return at once; `stop` is called later, from a thread."""
        run = RunFolder.current()
        if run.draining:
            self._hurry.set()
            stop()
            return
        run.drain()
        # a daemon thread: the process may end for another reason meanwhile
        threading.Thread(target=self._stop_when_idle, args=(run, stop), daemon=True).start()

    def _stop_when_idle(self, run: RunFolder, stop: Callable[[], None]) -> None:
        end = time.monotonic() + self._limit_s
        # a request that was admitted just before the drain is counted after this
        self._hurry.wait(2 * POLL_S)
        while run.active_requests and time.monotonic() < end and not self._hurry.is_set():
            self._hurry.wait(POLL_S)
        if self._hurry.is_set():
            return
        if run.active_requests:
            logger.warning(
                "stopping with %d requests under way after %g s", run.active_requests, self._limit_s
            )
        stop()
