"""A soak counts every answer, and tells a wrong one from a right one."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import soak
from benchmarks.comparison import by_machine
from benchmarks.faults import kinds
from benchmarks.results import Entry, Run
from benchmarks.soak import ask_until, entry_of, growth, process_names
from benchmarks.tables import fault_answers_table, faults_table, overhead_table, soak_table

MakeRun = Callable[..., Run]
SCANS = [b"one", b"two"]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "PAUSE_S", 0.0)


def asked(times: int, ask: Any, expected: Any, timeout_s: float = 1.0) -> list[Any]:
    """Answers of so many requests."""
    left = iter([False] * times)
    return asyncio.run(
        ask_until(ask, SCANS, expected, lambda: next(left, True), timeout_s=timeout_s, seed=1)
    )


def test_only_the_labels_of_the_single_call_are_right() -> None:
    async def ask(scan: bytes) -> tuple[str, str, bytes]:
        return "ok", "200", b"labels of " + scan

    right = [b"labels of " + scan for scan in SCANS]
    assert {outcome for outcome, *_ in asked(8, ask, right)} == {"ok"}
    assert {outcome for outcome, *_ in asked(8, ask, None)} == {"ok"}
    swapped = asked(8, ask, right[::-1])
    assert {(outcome, status) for outcome, status, _ in swapped} == {("failed", "other labels")}


def test_every_outcome_is_counted_and_a_hang_is_one() -> None:
    turns = itertools.count()

    async def ask(scan: bytes) -> tuple[str, str, bytes]:
        turn = next(turns)
        if turn == 2:
            await asyncio.sleep(60)
        return (("refused", "429", b""), ("ok", "200", scan))[turn % 2]

    entry = entry_of(asked(6, ask, SCANS, timeout_s=0.05))
    assert entry.facts["outcomes"] == {"refused": 2, "ok": 3, "timeout": 1}
    assert entry.facts["statuses"] == {"429": 2, "200": 3, "none": 1}
    assert {name: len(values) for name, values in entry.samples.items()} == {
        "refused_s": 2,
        "ok_s": 3,
        "timeout_s": 1,
    }
    assert entry.samples["timeout_s"][0] >= 0.05


def test_growth_is_the_last_minute_over_the_third() -> None:
    times = [float(t) for t in range(0, 600, 5)]
    rising = [100 + t / 10 for t in times]
    expected = (100 + sum(t for t in times if t >= 535) / 13 / 10) / (
        100 + sum(range(120, 180, 5)) / 12 / 10
    )
    assert growth(times, rising) == pytest.approx(expected)
    assert growth(times, [7.0] * len(times)) == 1.0
    assert growth(times[:30], rising[:30]) is None
    assert growth([], []) is None


def test_processes_are_told_by_what_they_are_for() -> None:
    """A service as BentoML starts it, and something else; both sleep."""
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    service = subprocess.Popen([*sleep, "--service-name", "runner-compact"])
    other = subprocess.Popen(sleep)
    try:
        names = process_names(os.getpid())
        assert names[os.getpid()] == "master"
        assert names[service.pid] == "runner-compact"
        assert other.pid not in names
        assert kinds(os.getpid())["runner-compact"] == [service.pid]
    finally:
        for process in (service, other):
            process.kill()
            process.wait()


def test_tables_say_what_was_found(make_run: MakeRun) -> None:
    answers = Entry(
        {"outcomes": {"ok": 3, "failed": 1}, "statuses": {"200": 3, "503": 1}},
        {"ok_s": [1.0, 2.0, 3.0], "failed_s": [0.1]},
    )
    memory = Entry({"last_minute_over_third": 1.034})
    scenario = {"clients": 16, "minutes": 10, "protocols": ["http"]}
    (machine,) = by_machine(
        [
            make_run("soak", {"http": answers, "memory of master": memory}, scenario),
            make_run(
                "overhead",
                {
                    "in process": Entry(
                        {"clients_at_once": 1}, {"alone_s": [1.0], "scans_per_s": [1.0]}
                    ),
                    "http": Entry({"clients_at_once": 8}, {"alone_s": [1.1], "scans_per_s": [1.5]}),
                },
            ),
            make_run(
                "faults",
                {"kill preprocessing": Entry({}, {"whole_again_s": [4.0, 9.0]}), "http": answers},
            ),
        ]
    )
    row = soak_table(machine).splitlines()[-1]
    assert "| 3 | 0 | 1 | 0 | 2.000 |" in row
    assert "503: 1" in row
    assert "master 1.034" in row
    assert overhead_table(machine).splitlines()[-1] == "| http | 1.100 | 1.10 | 1.500 | 1.50 | 8 |"
    assert faults_table(machine).splitlines()[-1] == "| preprocessing | 2 | 6.5 | 9.0 |"
    assert fault_answers_table(machine).splitlines()[-1].startswith("| http | 3 | 0 | 1 | 0 |")
