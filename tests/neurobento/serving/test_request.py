"""One request: its work ends at the deadline, or when its client leaves."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest

from neurobento.errors import ClientGone, DeadlineExceeded
from neurobento.serving.request import RequestContext, choose_request_id
from tests.neurobento.serving.fakes import Clock

LONG_S = 30.0
"""No test takes so long: what is not ended fails by its time limit."""


class Work:
    """Work that goes on for long, and needs a moment to tidy up when it is ended."""

    def __init__(self) -> None:
        self.begun, self.tidied = asyncio.Event(), False

    async def go(self) -> None:
        self.begun.set()
        try:
            await asyncio.sleep(LONG_S)
        finally:
            await asyncio.sleep(0.05)
            self.tidied = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("neurobento.serving.request.time", clock)
    return clock


def a_request(limit_s: float = LONG_S) -> RequestContext:
    return RequestContext("r-1", "http", limit_s)


def test_the_result_or_exception_of_the_work_is_passed_on() -> None:
    async def work(divisor: int) -> float:
        await asyncio.sleep(0)
        return 6 / divisor

    assert asyncio.run(a_request().run(work(2))) == 3
    with pytest.raises(ZeroDivisionError):
        asyncio.run(a_request().run(work(0)))


@pytest.mark.parametrize("limit_s", [0.0, 0.05])
def test_the_deadline_ends_the_work_and_waits_until_it_has_tidied_up(limit_s: float) -> None:
    async def scenario() -> bool:
        work = Work()
        with pytest.raises(DeadlineExceeded, match=f"within {limit_s:.3g} s"):
            await a_request(limit_s).run(work.go())
        return work.tidied

    start = time.monotonic()
    assert asyncio.run(scenario())
    assert time.monotonic() - start >= limit_s


@pytest.mark.parametrize("error", [ClientGone, asyncio.CancelledError])
def test_a_client_that_leaves_or_the_end_of_its_task_ends_the_work(
    error: type[BaseException],
) -> None:
    async def scenario() -> bool:
        request, work = a_request(), Work()
        waiting = asyncio.ensure_future(request.run(work.go()))
        await work.begun.wait()
        if error is ClientGone:
            request.abandon()
        else:
            waiting.cancel()
        with pytest.raises(error):
            await waiting
        return work.tidied

    assert asyncio.run(scenario())


def test_a_client_that_has_left_before_the_work_began_ends_it_too() -> None:
    async def scenario() -> None:
        request = a_request()
        request.abandon()
        with pytest.raises(ClientGone):
            await request.run(Work().go())
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


def test_work_that_does_not_end_holds_nobody_up_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurobento.serving.request.CLEANUP_LIMIT_S", 0.05)
    ended = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            await asyncio.sleep(0.3)
            ended.append(True)

    async def scenario() -> None:
        with pytest.raises(DeadlineExceeded):
            await a_request(0.01).run(stubborn())
        assert not ended

    asyncio.run(scenario())


def test_an_error_while_tidying_up_is_nobodys_and_is_not_written_out() -> None:
    told: list[dict[str, Any]] = []

    async def work() -> None:
        try:
            await asyncio.sleep(LONG_S)
        finally:
            raise OSError("/home/somebody/JANE_DOE.nii.gz")

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        with pytest.raises(DeadlineExceeded):
            await a_request(0.01).run(work())

    asyncio.run(scenario())
    gc.collect()
    assert told == []


def test_a_request_leaves_no_task_behind() -> None:
    async def scenario() -> int:
        await a_request().run(asyncio.sleep(0))
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(scenario()) == 1


def test_the_seconds_left_run_down_to_nothing(clock: Clock) -> None:
    request = a_request(10.0)
    assert request.seconds_left == 10.0
    clock.now += 4.0
    assert request.seconds_left == 6.0
    clock.now += 100.0
    assert request.seconds_left == 0.0


def test_a_clients_request_id_is_kept_and_another_replaced_by_a_new_one() -> None:
    for given in ("a", "Az.9_-", "x" * 64):
        assert choose_request_id(given) == given
    for given in ("", "x" * 65, "a b", "a\n", "J\xf6rg", "../x"):
        first, second = choose_request_id(given), choose_request_id(given)
        assert first != second
        assert given not in {first, second}
        assert choose_request_id(first) == first
    assert a_request().id == a_request().id
    assert a_request().ticket != a_request().ticket
