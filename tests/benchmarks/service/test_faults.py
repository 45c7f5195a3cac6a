"""What callers may see while processes are killed, and which processes are."""

from __future__ import annotations

import pytest

from benchmarks.service.faults import answers_entry, is_allowed, victim
from benchmarks.service.soak import Answer

KILLED_S = 100.0
"""When the front service was killed."""


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
    assert is_allowed(Answer(outcome, status, 1.0, 5.0), [])


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
def test_nothing_else_is_allowed_even_as_the_front_is_killed(outcome: str, status: str) -> None:
    assert not is_allowed(Answer(outcome, status, 2.0, KILLED_S - 1), [KILLED_S])


@pytest.mark.parametrize("status", ["ReadError", "WriteError", "RemoteProtocolError"])
@pytest.mark.parametrize(
    ("began_s", "seconds", "allowed"),
    [(98.0, 2.1, True), (100.5, 0.1, True), (98.0, 1.5, False), (102.0, 0.1, False)],
)
def test_a_connection_may_be_cut_only_as_the_front_is_killed(
    status: str, began_s: float, seconds: float, allowed: bool
) -> None:
    cut = Answer("failed", status, seconds, began_s)
    assert is_allowed(cut, [20.0, KILLED_S]) is allowed
    assert not is_allowed(cut, [])


def test_what_is_not_allowed_is_counted_beside_all_that_was_seen() -> None:
    answers = [
        Answer("ok", "200", 1.0, 97.0),
        Answer("failed", "ReadError", 1.0, 99.5),
        Answer("failed", "ReadError", 1.0, 50.0),
        Answer("timeout", "none", 60.0, 90.0),
    ]
    facts = answers_entry(answers, [KILLED_S]).facts
    assert facts["statuses"] == {"200": 1, "ReadError": 2, "none": 1}
    assert facts["not_allowed"] == {"ReadError": 1, "none": 1}


def test_processes_of_a_kind_are_killed_equally_often() -> None:
    killed = [victim([30, 10, 20], turn) for turn in range(9)]
    assert {pid: killed.count(pid) for pid in (10, 20, 30)} == {10: 3, 20: 3, 30: 3}
