"""Admission: how many requests get a slot, and which are refused for their wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from neurobento.errors import ServiceBusy, ServiceUnavailable
from neurobento.serving.admission import Admission
from neurobento.serving.process.run_folder import RunFolder
from neurobento.serving.request import RequestContext
from neurobento.serving.settings import RUN_VARIABLE
from tests.neurobento.serving.fakes import Clock

LONG_S = 30.0
"""No test takes so long: what is not ended fails by its time limit."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv(RUN_VARIABLE, str(tmp_path))
    return RunFolder(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("neurobento.serving.admission.time", clock)
    monkeypatch.setattr("neurobento.serving.request.time", clock)
    return clock


def a_request(limit_s: float = LONG_S) -> RequestContext:
    return RequestContext("r-1", "http", limit_s)


def refused(reason: str) -> float:
    return REGISTRY.get_sample_value("neurobento_refused_total", {"reason": reason}) or 0.0


def test_as_many_requests_are_admitted_as_there_are_slots(run: RunFolder) -> None:
    admission = Admission(2, 1, LONG_S)
    before = refused("no place")
    with admission.slot(), admission.slot():
        for _ in range(3):
            with pytest.raises(ServiceBusy) as caught, admission.slot():
                pytest.fail("a third was let in")
            assert caught.value.retry_after_s is not None
            assert caught.value.retry_after_s >= 1
        assert run.active_requests == 2
    assert refused("no place") == before + 3
    with admission.slot(), admission.slot():
        assert run.active_requests == 2


@pytest.mark.parametrize("end", [None, ZeroDivisionError, ServiceBusy, asyncio.CancelledError])
def test_a_slot_is_free_again_however_a_request_ends(
    run: RunFolder, end: type[BaseException] | None
) -> None:
    admission = Admission(1, 1, LONG_S)
    for _ in range(3):
        with contextlib.suppress(BaseException), admission.slot():
            assert run.active_requests == 1
            if end is ServiceBusy:
                raise ServiceBusy(expected="a", found="b", remedy="C.")
            if end is not None:
                raise end
        assert run.active_requests == 0
    with admission.slot():
        pass


def test_a_slot_is_free_again_when_its_task_is_cancelled(run: RunFolder) -> None:
    async def hold_slot() -> None:
        with Admission(1, 1, LONG_S).slot():
            await asyncio.sleep(LONG_S)

    async def scenario() -> None:
        task = asyncio.ensure_future(hold_slot())
        await asyncio.sleep(0)
        assert run.active_requests == 1
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(scenario())
    assert run.active_requests == 0


def test_a_slot_is_not_lost_when_the_count_cannot_be_written(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission = Admission(1, 1, LONG_S)

    def full(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(RunFolder, "write_active_requests", full)
        with pytest.raises(OSError), admission.slot():
            pytest.fail("let in")
    with admission.slot():
        assert run.active_requests == 1


def test_metrics_count_the_requests_in_progress_of_which_a_service_begins_with_none(
    run: RunFolder,
) -> None:
    run.write_active_requests(7)
    admission = Admission(3, 1, LONG_S)
    admission.open()
    assert run.active_requests == 0
    with admission.slot(), admission.slot():
        assert REGISTRY.get_sample_value("neurobento_requests_inside") == 2
    assert REGISTRY.get_sample_value("neurobento_requests_inside") == 0


def test_a_draining_service_admits_no_request_and_finishes_those_in_progress(
    run: RunFolder,
) -> None:
    admission = Admission(5, 1, LONG_S)
    before = refused("draining")
    with admission.slot():
        assert not admission.draining
        run.drain()
        assert admission.draining
        with pytest.raises(ServiceUnavailable) as caught, admission.slot():
            pytest.fail("let in")
        with admission.join_queue(a_request(), "kind"):
            assert run.active_requests == 1
    assert caught.value.retry_after_s
    assert refused("draining") == before + 1


Teach = Callable[[Admission, str, float], None]


@pytest.fixture
def teach(run: RunFolder, clock: Clock) -> Teach:
    """Has an admission see work of a kind that takes so many seconds by itself."""

    def once(admission: Admission, kind: str, seconds: float) -> None:
        with admission.join_queue(a_request(1e6), kind):
            clock.now += seconds

    return once


@contextlib.contextmanager
def ahead(admission: Admission, *kinds: str) -> Iterator[None]:
    """Queue requests of these kinds before the next."""
    with contextlib.suppress(InterruptedError), contextlib.ExitStack() as queued:
        for kind in kinds:
            queued.enter_context(admission.join_queue(a_request(1e6), kind))
        yield
        # nothing is learnt from requests that end so
        raise InterruptedError


def is_let_in(admission: Admission, limit_s: float) -> bool:
    try:
        with admission.join_queue(a_request(limit_s), "asked"):
            raise InterruptedError
    except InterruptedError:
        return True
    except ServiceBusy:
        return False


def assert_wait(admission: Admission, seconds: float) -> None:
    """Check that so many seconds of work are ahead of the next request."""
    assert not is_let_in(admission, 0.99 * seconds)
    assert is_let_in(admission, 1.01 * seconds)


def test_a_request_whose_deadline_the_work_ahead_outlasts_is_refused(teach: Teach) -> None:
    admission = Admission(9, 1, 1e6)
    teach(admission, "full", 10.0)
    before = refused("too late")
    with ahead(admission, "full"):
        assert_wait(admission, 10.0)
    with ahead(admission, "full", "full"):
        assert_wait(admission, 20.0)
    assert refused("too late") == before + 2


@pytest.mark.parametrize(("longest_wait_s", "let_in"), [(9.9, False), (10.1, True)])
def test_nobody_waits_longer_than_the_service_wants(
    teach: Teach, longest_wait_s: float, let_in: bool
) -> None:
    admission = Admission(9, 1, longest_wait_s)
    teach(admission, "full", 10.0)
    with ahead(admission, "full"):
        assert is_let_in(admission, 1e6) == let_in


def test_who_finds_a_free_process_does_not_wait_and_processes_share_the_work_ahead(
    teach: Teach,
) -> None:
    admission = Admission(9, 2, 1.0)
    teach(admission, "full", 1000.0)
    assert is_let_in(admission, 0.01)
    with ahead(admission, "full"):
        assert is_let_in(admission, 0.01)
    with ahead(admission, "full", "full"):
        assert not is_let_in(admission, 1e6)
    admission = Admission(9, 2, 1e6)
    teach(admission, "full", 10.0)
    with ahead(admission, "full", "full", "full"):
        assert_wait(admission, 15.0)


def test_work_of_a_kind_that_was_never_seen_is_not_held_against_anybody(teach: Teach) -> None:
    admission = Admission(9, 1, 0.0)
    teach(admission, "full", 10.0)
    with ahead(admission, "new", "new"):
        assert is_let_in(admission, 0.01)


def test_kinds_are_told_apart_and_the_newest_work_weighs_three_tenths(teach: Teach) -> None:
    """Nothing is learnt from work that failed."""
    admission = Admission(9, 1, 1e6)
    teach(admission, "full", 100.0)
    teach(admission, "none", 2.0)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), admission.join_queue(a_request(), "full"):
            raise ZeroDivisionError
    with ahead(admission, "none"):
        assert_wait(admission, 2.0)
    with ahead(admission, "full", "none"):
        assert_wait(admission, 102.0)
    teach(admission, "full", 200.0)
    with ahead(admission, "full"):
        assert_wait(admission, 130.0)


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_the_time_that_requests_waited_for_each_other_is_not_learnt(
    run: RunFolder, clock: Clock, side_by_side: int
) -> None:
    """Eight come at once, each is worked on for ten seconds, by one process or two in turn."""
    admission = Admission(9, side_by_side, 1e6)
    queued = [admission.join_queue(a_request(1e6), "full") for _ in range(8)]
    for entry in queued:
        entry.__enter__()
    for i, entry in enumerate(queued):
        # two that begin together end together
        clock.now += 10.0 if i % side_by_side == 0 else 0.0
        entry.__exit__(None, None, None)
    with ahead(admission, *["full"] * side_by_side):
        assert_wait(admission, 10.0)


def test_queues_do_not_wait_for_each_other(teach: Teach) -> None:
    admission = Admission(9, 1, 0.0)
    teach(admission, "full", 10.0)
    with admission.join_queue(a_request(1e6), "full", "slow"):
        with admission.join_queue(a_request(0.5), "none", "quick"):
            pass
        with pytest.raises(ServiceBusy), admission.join_queue(a_request(1e6), "full", "slow"):
            pytest.fail("let in")


@pytest.mark.parametrize("end", [None, ZeroDivisionError, asyncio.CancelledError])
def test_a_request_leaves_the_queue_with_its_work(
    teach: Teach, end: type[BaseException] | None
) -> None:
    admission = Admission(9, 1, 0.0)
    teach(admission, "full", 10.0)
    before = refused("too late")
    with contextlib.suppress(BaseException), admission.join_queue(a_request(1e6), "full"):
        assert not is_let_in(admission, 1e6)
        if end is not None:
            raise end
    assert is_let_in(admission, 0.01)
    assert refused("too late") == before + 1


def test_who_is_refused_learns_when_a_slot_will_be_free(teach: Teach) -> None:
    admission = Admission(0, 1, 5.0)
    teach(admission, "full", 10.0)
    # a wait of 0 s lets the second in, as the first is of a kind that was never seen
    with ahead(admission, "new", "full"):
        with pytest.raises(ServiceBusy) as too_late, admission.join_queue(a_request(), "full"):
            pytest.fail("let in")
        with pytest.raises(ServiceBusy) as no_slot, admission.slot():
            pytest.fail("let in")
    assert too_late.value.retry_after_s == no_slot.value.retry_after_s == 5.0
    assert "in 5 s" in str(too_late.value)
