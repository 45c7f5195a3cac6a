"""The server's first process: its folder, how often it looks after the others, and its drain."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bentoml._internal.utils import circus
from bentoml._internal.utils.circus import create_standalone_arbiter
from circus.sighandler import SysHandler

from neurobento.serving.bentoml_patches import POLL_PROCESSES_S, patch_arbiter, patch_signal_handler
from neurobento.serving.process.main_process import Drain, set_up_main_process
from neurobento.serving.process.run_folder import RunFolder
from neurobento.serving.settings import RUN_VARIABLE

ROOT = Path(__file__).resolve().parents[4]
LONG_S = 60.0


class Signals:
    """What circus does on SIGTERM: the handler it would call, and how often it would stop."""

    def __init__(self) -> None:
        self.stops: list[Any] = []

    def arrive(self) -> None:
        """SIGTERM."""
        SysHandler.quit(self)

    def stopped(self, within_s: float = 0.5) -> bool:
        """Whether all services are being stopped, or are within some time."""
        end = time.monotonic() + within_s
        while not self.stops and time.monotonic() < end:
            time.sleep(0.01)
        return bool(self.stops)


@pytest.fixture
def signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signals:
    """As it was before a master began, and will be again."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv(RUN_VARIABLE, "")
    monkeypatch.setattr(circus.Arbiter, "__init__", circus.Arbiter.__init__)
    signals = Signals()
    monkeypatch.setattr(SysHandler, "quit", lambda handler: signals.stops.append(handler))
    return signals


@pytest.fixture
def at_exit(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Any]]:
    registered: list[Callable[[], Any]] = []

    def register(work: Callable[..., Any], *args: Any) -> None:
        registered.append(functools.partial(work, *args))

    monkeypatch.setattr(atexit, "register", register)
    return registered


@pytest.fixture
def begun(signals: Signals, at_exit: Any) -> Callable[[float], RunFolder]:
    """Begins a master; the folder of its run."""

    def begin(drain_limit_s: float) -> RunFolder:
        patch_arbiter()
        patch_signal_handler(Drain(drain_limit_s))
        set_up_main_process()
        return RunFolder.current()

    return begin


def test_all_processes_of_a_server_share_a_folder(begun: Any, tmp_path: Path) -> None:
    run = begun(LONG_S)
    assert run.path.parent == tmp_path
    assert os.environ[RUN_VARIABLE] == str(run.path)
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == str(run.temporary)
    assert not run.draining


def test_the_folder_goes_with_the_process_that_made_it_and_no_other(
    begun: Any, at_exit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(LONG_S)
    (end,) = at_exit
    with monkeypatch.context() as patch:
        # as a child that was forked has it
        patch.setattr(os, "getpid", lambda: -1)
        end()
    assert run.path.is_dir()
    end()
    assert not run.path.exists()


def test_dead_processes_are_looked_for_every_second(begun: Any) -> None:
    """By the arbiter of BentoML's function, which it imported before it called us."""
    begun(LONG_S)
    arbiter = create_standalone_arbiter(watchers=[])
    try:
        assert arbiter.check_delay == POLL_PROCESSES_S <= 1
    finally:
        arbiter.context.destroy(0)


def test_an_empty_server_stops_at_once(begun: Any, signals: Signals) -> None:
    run = begun(LONG_S)
    signals.arrive()
    assert signals.stopped()
    assert signals.stops == [signals], "circus' own handler is the one that stops"
    assert run.draining


@pytest.mark.alone
def test_a_server_stops_when_the_last_request_has_ended(begun: Any, signals: Signals) -> None:
    run = begun(LONG_S)
    run.write_active_requests(2)
    began = time.monotonic()
    signals.arrive()
    assert time.monotonic() - began < 0.1, "a signal handler has to return"
    assert run.draining
    assert not signals.stopped(0.2)
    run.write_active_requests(1)
    assert not signals.stopped(0.2)
    run.write_active_requests(0)
    assert signals.stopped()


@pytest.fixture
def records() -> Iterator[list[str]]:
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("neurobento.serving")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def test_a_request_that_does_not_end_is_waited_for_no_longer_than_the_limit(
    begun: Any, signals: Signals, records: list[str]
) -> None:
    begun(0.3).write_active_requests(3)
    signals.arrive()
    assert not signals.stopped(0.15)
    assert signals.stopped()
    assert records == ["stopping with 3 requests under way after 0.3 s"]


def test_a_second_signal_stops_at_once_and_only_once(begun: Any, signals: Signals) -> None:
    run = begun(LONG_S)
    run.write_active_requests(1)
    signals.arrive()
    signals.arrive()
    assert len(signals.stops) == 1
    run.write_active_requests(0)
    time.sleep(0.2)
    assert len(signals.stops) == 1, "the drain stopped what was stopped already"


IMPATIENT = """
from circus.sighandler import SysHandler
SysHandler.quit = lambda handler: None
from neurobento.serving.bentoml_patches import patch_signal_handler
from neurobento.serving.process.main_process import Drain, set_up_main_process
from neurobento.serving.process.run_folder import RunFolder
set_up_main_process()
RunFolder.current().write_active_requests(1)
patch_signal_handler(Drain(60.0))
for _ in range({signals}):
    SysHandler.quit(None)
"""


@pytest.mark.parametrize("count", [1, 2])
def test_a_drain_does_not_keep_a_process_that_ends(count: int, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    code = IMPATIENT.format(signals=count)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=20)
