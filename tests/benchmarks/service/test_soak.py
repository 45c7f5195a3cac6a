"""A soak judges answers, processes, memory and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.runs import Entry, Run
from benchmarks.service import soak
from benchmarks.service.server_processes import memory_entries
from benchmarks.service.soak import main, problems

LOOKS = [float(t) for t in range(0, 601, 5)]
GOOD = Entry({"outcomes": {"ok": 9, "refused": 2}, "statuses": {}})


def steady(*times: float) -> list[tuple[float, float]]:
    """A process of 100 MiB that was there at these looks."""
    return [(t, 100.0) for t in times]


def test_processes_that_stay_and_do_not_grow_are_no_problem() -> None:
    shrinking = [(t, 200.0 - t / 10) for t in LOOKS]
    entries = memory_entries(LOOKS, {(1, "master"): steady(*LOOKS), (2, "neurobento"): shrinking})
    assert problems({"http": GOOD, **entries}, minutes=10) == []


def test_a_process_that_was_replaced_is_named_twice() -> None:
    seen = {
        (1, "master"): steady(*LOOKS),
        (7, "runner-regions"): steady(*LOOKS[:40]),
        (8, "runner-regions"): steady(*LOOKS[41:]),
    }
    entries = memory_entries(LOOKS, seen)
    names = ("master", "runner-regions", "runner-regions 8")
    assert list(entries) == [f"memory of {name}" for name in names]
    found = problems(entries, minutes=10)
    assert "runner-regions: ended before the run" in found
    assert "runner-regions 8: started during the run" in found
    assert not any(each.startswith("master") for each in found)


def test_a_process_that_came_and_went_is_named_but_not_one_seen_once() -> None:
    seen = {(1, "master"): steady(*LOOKS), (5, "extra"): steady(100, 105), (6, "x"): steady(100)}
    found = problems(memory_entries(LOOKS, seen), minutes=10)
    assert {each.split(":")[0] for each in found} == {"extra"}


@pytest.mark.parametrize(("last_mib", "good"), [(104.0, True), (106.0, False), (50.0, True)])
def test_growth_is_judged_upwards(last_mib: float, good: bool) -> None:
    series = [(t, last_mib if t >= 540 else 100.0) for t in LOOKS]
    entries = memory_entries(LOOKS, {(1, "master"): series})
    assert (problems(entries, minutes=10) == []) is good


def test_unknown_growth_is_no_problem_in_a_short_run_only() -> None:
    entries = memory_entries(LOOKS[:20], {(1, "master"): steady(*LOOKS[:20])})
    assert problems(entries, minutes=1.6) == []
    assert problems(entries, minutes=4) == ["master: memory in the last minute is not known"]


@pytest.mark.parametrize("outcomes", [{"ok": 9, "failed": 1}, {"ok": 9, "timeout": 1}, {}])
def test_answers_wrong_or_missing_are_a_problem(outcomes: dict[str, int]) -> None:
    assert len(problems({"grpc": Entry({"outcomes": outcomes})}, minutes=1)) == 1


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A short soak of a service that answers all."""

    async def answered(args: Any) -> dict[str, Entry]:
        return {"http": GOOD, **memory_entries([0.0], {(1, "master"): steady(0.0)})}

    monkeypatch.setattr(soak, "run_soak", answered)
    monkeypatch.setattr(soak, "served_models", lambda url: {"regions": "ab"})
    monkeypatch.setattr(soak, "require_server", lambda pid: None)
    (tmp_path / "scan.nii.gz").write_bytes(b"a scan")
    scan, run = str(tmp_path / "scan.nii.gz"), str(tmp_path / "run.json")
    return [scan, "--url", "http://service.test", "--minutes", "1", "-o", run]


@pytest.mark.parametrize(
    ("files", "status", "printed"),
    [([], 0, "growth was not judged"), (["upload"], 1, "upload"), (None, 1, "was not found")],
)
def test_files_that_remain_or_were_not_checked_are_a_problem(
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    files: list[str] | None,
    status: int,
    printed: str,
) -> None:
    monkeypatch.setattr(soak, "temporary_files", lambda pid: files)
    assert main([*arguments, "--server-pid", "1"]) == status
    assert printed in capsys.readouterr().out
    assert Run.read(tmp_path / "run.json").scenario["files_left"] == files


def test_without_the_server_the_command_says_that_memory_was_not_checked(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    assert "memory and files were not checked" in capsys.readouterr().out
