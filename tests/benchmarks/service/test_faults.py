"""Callers may see some errors while processes are killed; each process is killed in turn."""

from __future__ import annotations

import pytest

from benchmarks.service.closed_loop import ClosedLoopRequest
from benchmarks.service.faults import fault_entry, is_allowed, pid_to_kill

KILLED_S = 100.0
"""When the HTTP service was killed."""


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("ok", "200"),
        ("ok", "OK"),
        ("refused", "429"),
        ("refused", "RESOURCE_EXHAUSTED"),
        ("failed", "503"),
        ("failed", "UNAVAILABLE"),
    ],
)
def test_answers_refusals_and_missing_parts_are_always_allowed(outcome: str, status: str) -> None:
    assert is_allowed(ClosedLoopRequest(outcome, status, 1.0, 5.0), [])


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("timeout", "none"),
        ("failed", "other labels"),
        ("failed", "no labels"),
        ("failed", "500"),
        ("failed", "504"),
        ("failed", "422"),
        ("failed", "INTERNAL"),
        ("failed", "DEADLINE_EXCEEDED"),
        ("failed", "ConnectError"),
        ("failed", "ReadTimeout"),
    ],
)
def test_nothing_else_is_allowed_even_as_the_http_service_is_killed(
    outcome: str, status: str
) -> None:
    assert not is_allowed(ClosedLoopRequest(outcome, status, 2.0, KILLED_S - 1), [KILLED_S])


@pytest.mark.parametrize("status", ["ReadError", "WriteError", "RemoteProtocolError"])
@pytest.mark.parametrize(
    ("began_s", "seconds", "allowed"),
    [(98.0, 2.1, True), (100.5, 0.1, True), (98.0, 1.5, False), (102.0, 0.1, False)],
)
def test_a_connection_may_be_cut_only_as_the_http_service_is_killed(
    status: str, began_s: float, seconds: float, allowed: bool
) -> None:
    cut = ClosedLoopRequest("failed", status, seconds, began_s)
    assert is_allowed(cut, [20.0, KILLED_S]) is allowed
    assert not is_allowed(cut, [])


def test_outcomes_that_are_not_allowed_are_counted() -> None:
    requests = [
        ClosedLoopRequest("ok", "200", 1.0, 97.0),
        ClosedLoopRequest("failed", "ReadError", 1.0, 99.5),
        ClosedLoopRequest("failed", "ReadError", 1.0, 50.0),
        ClosedLoopRequest("timeout", "none", 60.0, 90.0),
    ]
    facts = fault_entry(requests, [KILLED_S]).facts
    assert facts["statuses"] == {"200": 1, "ReadError": 2, "none": 1}
    assert facts["not_allowed"] == {"ReadError": 1, "none": 1}


def test_processes_of_a_kind_are_killed_equally_often() -> None:
    killed = [pid_to_kill([30, 10, 20], number) for number in range(9)]
    assert {pid: killed.count(pid) for pid in (10, 20, 30)} == {10: 3, 20: 3, 30: 3}
