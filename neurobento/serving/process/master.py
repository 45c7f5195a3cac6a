"""What the server's first process does: a folder for the run, a quick eye on the others, a drain.

BentoML runs the services under circus. Circus looks every ten seconds whether a
process died, and on SIGTERM stops all services at once, with requests under
way between them; neither can be set, so both are changed here, before it
starts. Tests kill the processes of a running server and watch.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from neurobento.serving.process.run_folder import RunFolder

__all__ = ["begin_master"]

CHECK_EVERY_S = 1.0
"""Between two looks whether a service's process died."""

POLL_S = 0.05

logger = logging.getLogger("neurobento.serving")


def begin_master(drain_limit_s: float) -> None:
    """Prepare the process that will start all others.

    Parameters
    ----------
    drain_limit_s
        After SIGTERM, how long requests under way may take to end.
    """
    run = RunFolder.make()
    run.be_current()
    master = os.getpid()
    atexit.register(_remove, run, master)
    _look_often()
    _drain_first(run, drain_limit_s)


def _remove(run: RunFolder, master: int) -> None:
    # not in a child that was forked
    if os.getpid() == master:
        run.remove()


def _look_often() -> None:
    from bentoml._internal.utils.circus import Arbiter

    begin = Arbiter.__init__

    def begin_attentive(arbiter: Any, *args: Any, **options: Any) -> None:
        begin(arbiter, *args, **{**options, "check_delay": CHECK_EVERY_S})

    # the class: BentoML has imported the function that makes one before it comes here
    Arbiter.__init__ = begin_attentive


def _drain_first(run: RunFolder, limit_s: float) -> None:
    from circus.sighandler import SysHandler

    stop = SysHandler.quit
    now = threading.Event()

    def drain_and_stop(handler: Any) -> None:
        if run.draining:
            # a second signal means now
            now.set()
            stop(handler)
            return
        run.drain()
        arguments = (run, limit_s, now, lambda: stop(handler))
        # a daemon: a process that ends for another reason does not wait for it
        threading.Thread(target=_stop_when_empty, args=arguments, daemon=True).start()

    SysHandler.quit = drain_and_stop


def _stop_when_empty(
    run: RunFolder, limit_s: float, now: threading.Event, stop: Callable[[], None]
) -> None:
    end = time.monotonic() + limit_s
    # a request that came in just before it was told has said so by then
    now.wait(2 * POLL_S)
    while run.inside and time.monotonic() < end and not now.is_set():
        now.wait(POLL_S)
    if now.is_set():
        return
    if run.inside:
        logger.warning("stopping with %d requests under way after %g s", run.inside, limit_s)
    stop()
