"""A trial kills the server at the right moments, and passes only if no job is lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.report.service import jobs_table
from benchmarks.runs import Entry
from benchmarks.service.jobs import kill_moments, passes
from tests.benchmarks.report.cells import cells

FACTS = {
    "jobs": 20,
    "ids": 20,
    "keys_with_two_ids": 0,
    "done": 20,
    "right_labels": 20,
    "ended_twice": 0,
}
SIZES = {"empty": 100, "all waiting": 1000, "all done": 500, "all gone": 200}


def entries(facts: dict[str, Any], late_s: float = 8.0, gone: int = 200) -> dict[str, Entry]:
    return {
        "jobs": Entry(FACTS | facts, {"gone_after_their_time_s": [late_s]}),
        "database": Entry({"bytes": SIZES | {"all gone": gone}}),
    }


@pytest.mark.parametrize("kills", [0, 1, 3, 10])
def test_kills_happen_during_submission_and_processing(kills: int) -> None:
    early, late = kill_moments(200, kills)
    assert len(early) + len(late) == kills
    assert all(0 < moment < 200 for moment in early + late)


def test_all_done_once_and_gone_passes() -> None:
    assert passes(entries({}))


@pytest.mark.parametrize(
    "facts",
    [
        {"done": 19},
        {"right_labels": 19},
        {"ids": 21, "done": 21, "right_labels": 21},
        {"keys_with_two_ids": 1},
        {"ended_twice": 1},
    ],
)
def test_a_job_lost_wrong_or_done_twice_fails(facts: dict[str, int]) -> None:
    assert not passes(entries(facts))


def test_a_result_or_bytes_that_remain_fail() -> None:
    assert not passes(entries({}, late_s=float("inf")))
    assert not passes(entries({}, gone=9 << 20))


def test_the_table_shows_the_state_of_the_jobs() -> None:
    more = {"kills": 3, "begun_again": 2}
    jobs = Entry(
        FACTS | more, {"ready_again_s": [9.0, 11.0, 30.0], "gone_after_their_time_s": [0.5]}
    )
    sizes = {name: 1_000_000 * size for name, size in SIZES.items()}
    database = Entry({"kind": "sqlite", "bytes": sizes})
    run = SimpleNamespace(entries={"jobs": jobs, "database": database})
    machine: Any = SimpleNamespace(runs_of=lambda kind: [run] if kind == "jobs" else [])
    expected = ["sqlite", "3", "20", "20", "20", "0", "0", "2", "11.0", "0.5"]
    assert cells(jobs_table(machine)) == [[*expected, "100.0 / 1000.0 / 500.0 / 200.0"]]
