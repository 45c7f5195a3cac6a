"""A soak counts every answer, and tells a wrong one from a right one."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report.comparison import group_by_machine
from benchmarks.report.service import fault_outcomes_table, faults_table, overhead_table, soak_table
from benchmarks.runs import Entry, Run
from benchmarks.service import soak
from benchmarks.service.faults import kinds
from benchmarks.service.soak import (
    ask_until,
    complaints,
    entry_of,
    growth,
    left_files,
    main,
    memory_entries,
    process_names,
    require_server,
)
from neurobento.errors import ConfigError

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
    assert {(each.outcome, each.status) for each in swapped} == {("failed", "other labels")}


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


LOOKS = [float(t) for t in range(0, 601, 5)]
WELL = Entry({"outcomes": {"ok": 9, "refused": 2}, "statuses": {}})


def steady(*times: float) -> list[tuple[float, float]]:
    """A process of 100 MiB that was there at these looks."""
    return [(t, 100.0) for t in times]


def test_processes_that_stay_and_do_not_grow_are_well() -> None:
    shrinking = [(t, 200.0 - t / 10) for t in LOOKS]
    entries = memory_entries(LOOKS, {(1, "master"): steady(*LOOKS), (2, "neurobento"): shrinking})
    assert complaints({"http": WELL, **entries}, minutes=10) == []


def test_a_process_that_was_replaced_is_named_twice() -> None:
    seen = {
        (1, "master"): steady(*LOOKS),
        (7, "runner-compact"): steady(*LOOKS[:40]),
        (8, "runner-compact"): steady(*LOOKS[41:]),
    }
    entries = memory_entries(LOOKS, seen)
    assert list(entries) == [
        "memory of master",
        "memory of runner-compact",
        "memory of runner-compact 8",
    ]
    found = complaints(entries, minutes=10)
    assert "runner-compact: was gone before the end" in found
    assert "runner-compact 8: came during the run" in found
    assert not any(each.startswith("master") for each in found)


def test_a_process_that_came_and_went_is_named_but_not_one_seen_for_a_moment() -> None:
    seen = {(1, "master"): steady(*LOOKS), (5, "extra"): steady(100, 105), (6, "x"): steady(100)}
    found = complaints(memory_entries(LOOKS, seen), minutes=10)
    assert {each.split(":")[0] for each in found} == {"extra"}


@pytest.mark.parametrize(("last_mib", "well"), [(104.0, True), (106.0, False), (50.0, True)])
def test_growth_is_judged_upwards(last_mib: float, well: bool) -> None:
    series = [(t, last_mib if t >= 540 else 100.0) for t in LOOKS]
    entries = memory_entries(LOOKS, {(1, "master"): series})
    assert (complaints(entries, minutes=10) == []) is well


def test_unknown_growth_is_well_in_a_short_run_only() -> None:
    entries = memory_entries(LOOKS[:20], {(1, "master"): steady(*LOOKS[:20])})
    assert complaints(entries, minutes=1.6) == []
    assert complaints(entries, minutes=4) == ["master: memory in the last minute is not known"]


@pytest.mark.parametrize("outcomes", [{"ok": 9, "failed": 1}, {"ok": 9, "timeout": 1}, {}])
def test_answers_wrong_or_missing_are_not_right(outcomes: dict[str, int]) -> None:
    assert len(complaints({"grpc": Entry({"outcomes": outcomes})}, minutes=1)) == 1


def test_files_are_looked_for_in_the_folder_that_the_services_know(tmp_path: Path) -> None:
    environment = {**os.environ, "NEUROBENTO_RUN": str(tmp_path)}
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    service = subprocess.Popen(sleep, env=environment)
    try:
        assert left_files(os.getpid()) is None
        (tmp_path / "tmp" / "inner").mkdir(parents=True)
        assert left_files(os.getpid()) == []
        (tmp_path / "tmp" / "inner" / "upload-abc").touch()
        assert left_files(os.getpid()) == ["upload"]
    finally:
        service.kill()
        service.wait()
    assert left_files(os.getpid()) is None


def test_a_process_that_has_started_no_service_is_an_error() -> None:
    with pytest.raises(ConfigError, match="one without services"):
        require_server(os.getpid())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(ConfigError, match="no such process"):
        require_server(gone.pid)


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A short soak of a service that answers all."""

    async def answered(args: Any) -> dict[str, Entry]:
        return {"http": WELL, **memory_entries([0.0], {(1, "master"): steady(0.0)})}

    monkeypatch.setattr(soak, "soak", answered)
    monkeypatch.setattr(soak, "models_of", lambda url: {"compact": "ab"})
    monkeypatch.setattr(soak, "require_server", lambda pid: None)
    (tmp_path / "scan.nii.gz").write_bytes(b"a scan")
    scan, run = str(tmp_path / "scan.nii.gz"), str(tmp_path / "run.json")
    return [scan, "--url", "http://service.test", "--minutes", "1", "-o", run]


@pytest.mark.parametrize(
    ("left", "status", "said"),
    [([], 0, "growth was not judged"), (["upload"], 1, "upload"), (None, 1, "was not found")],
)
def test_files_left_or_not_looked_for_are_not_right(
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    left: list[str] | None,
    status: int,
    said: str,
) -> None:
    monkeypatch.setattr(soak, "left_files", lambda pid: left)
    assert main([*arguments, "--server-pid", "1"]) == status
    assert said in capsys.readouterr().out
    assert Run.read(tmp_path / "run.json").scenario["files_left"] == left


def test_without_the_server_it_is_said_that_memory_was_not_looked_at(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    assert "memory and files were not looked at" in capsys.readouterr().out


def test_tables_say_what_was_found(make_run: MakeRun) -> None:
    answers = Entry(
        {"outcomes": {"ok": 3, "failed": 1}, "statuses": {"200": 3, "503": 1}},
        {"ok_s": [1.0, 2.0, 3.0], "failed_s": [0.1]},
    )
    memory = Entry({"last_minute_over_third": 1.034})
    scenario = {"clients": 16, "minutes": 10, "protocols": ["http"]}
    (machine,) = group_by_machine(
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
    assert fault_outcomes_table(machine).splitlines()[-1].startswith("| http | 3 | 0 | 1 | 0 |")
