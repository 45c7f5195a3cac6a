"""Requests leave when they are due, and their latency counts from then."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from benchmarks.service.open_loop import ScheduledRequest, arrival_times, send_on_schedule
from benchmarks.service.protocols import Outcome


def test_poisson_arrivals_have_the_rate_and_the_spread_of_poisson() -> None:
    due = arrival_times(50.0, 200.0, "poisson", seed=1)
    gaps = np.diff(due)
    assert len(due) == pytest.approx(10_000, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert 0 < due[0] <= due[-1] < 200
    assert (gaps >= 0).all()


def test_constant_arrivals_are_even_and_a_seed_repeats_its_poisson_arrivals() -> None:
    first, again, other = (arrival_times(5.0, 20.0, "poisson", seed) for seed in (1, 1, 2))
    assert first == again != other
    assert arrival_times(4.0, 1.0, "constant", 0) == [0.0, 0.25, 0.5, 0.75]


def send_to_server(
    due: list[float], *, limit: int, timeout_s: float, serving_s: float
) -> list[ScheduledRequest]:
    """Requests to a server that takes `serving_s` for each."""

    async def send() -> tuple[Outcome, str]:
        await asyncio.sleep(serving_s)
        return "ok", "200"

    return asyncio.run(send_on_schedule(due, send, clients_limit=limit, timeout_s=timeout_s))


@pytest.mark.alone
def test_nobody_waits_for_an_earlier_answer() -> None:
    answers = send_to_server([0.0, 0.02, 0.04], limit=9, timeout_s=5, serving_s=0.3)
    assert [answer.due_s for answer in answers] == [0.0, 0.02, 0.04]
    for answer in answers:
        assert 0.3 <= answer.seconds < 0.5


@pytest.mark.alone
def test_waiting_for_a_free_client_is_part_of_the_latency() -> None:
    answers = send_to_server([0.0, 0.0, 0.0], limit=1, timeout_s=5, serving_s=0.1)
    waited = sorted(answer.seconds for answer in answers)
    for seconds, wanted in zip(waited, (0.1, 0.2, 0.3), strict=True):
        assert wanted <= seconds < wanted + 0.09


@pytest.mark.alone
def test_no_answer_in_time_is_a_timeout_and_ends_the_wait() -> None:
    endless = send_to_server([0.0, 0.05], limit=1, timeout_s=0.1, serving_s=60)
    assert [answer.outcome for answer in endless] == ["timeout", "timeout"]
    assert all(0.1 <= answer.seconds < 0.3 for answer in endless)
