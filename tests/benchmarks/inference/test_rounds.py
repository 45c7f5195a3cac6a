"""Rounds call every candidate, lose nothing, stop in time and continue where they stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.inference import rounds
from benchmarks.inference.rounds import measure_rounds, resumed_run, warm_up
from benchmarks.runs import Entry, Run
from neurobento.errors import ConfigError

MakeRun = Callable[..., Run]
NAMES = ("a", "b", "c")


def counting(calls: list[str]) -> dict[str, Callable[[], Mapping[str, float]]]:
    """Return candidates that record their calls and return the number of the call."""

    def call(name: str) -> Mapping[str, float]:
        calls.append(name)
        return {"seconds": float(len(calls))}

    return {name: (lambda n=name: call(n)) for name in NAMES}


def blank(make_run: MakeRun, **changes: Any) -> Run:
    return make_run(entries={name: Entry({}) for name in NAMES}, **changes)


def test_every_round_calls_every_candidate_once_in_order(tmp_path: Path, make_run: MakeRun) -> None:
    calls: list[str] = []
    done = measure_rounds(blank(make_run), counting(calls), 2, tmp_path / "run.json")
    assert calls == [*NAMES, *NAMES]
    seconds = {name: entry.samples["seconds"] for name, entry in done.entries.items()}
    assert seconds == {"a": [1, 4], "b": [2, 5], "c": [3, 6]}
    assert Run.read(tmp_path / "run.json") == done


def test_a_candidate_is_called_until_its_least_time_has_passed(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a` takes a second, `b` three, `c` ten; the least time is three."""
    now, calls = [0.0], []
    monkeypatch.setattr(rounds.time, "monotonic", lambda: now[0])

    def taking(name: str, seconds: float) -> Callable[[], Mapping[str, float]]:
        def call() -> Mapping[str, float]:
            calls.append(name)
            now[0] += seconds
            return {"seconds": seconds}

        return call

    candidates = {"a": taking("a", 1), "b": taking("b", 3), "c": taking("c", 10)}
    done = measure_rounds(blank(make_run), candidates, 2, tmp_path / "run.json", least_s=3)
    assert calls == ["a", "a", "a", "b", "c"] * 2
    assert [done.entries[name].facts["rounds"] for name in NAMES] == [2, 2, 2]
    again = measure_rounds(done, candidates, 3, tmp_path / "run.json", least_s=3)
    assert len(again.entries["a"].samples["seconds"]) == 9
    assert len(again.entries["c"].samples["seconds"]) == 3


def test_an_interruption_loses_one_round_at_most(tmp_path: Path, make_run: MakeRun) -> None:
    calls: list[str] = []
    candidates = counting(calls)

    def interrupted() -> Mapping[str, float]:
        if len(calls) > 4:
            raise KeyboardInterrupt
        return {"seconds": 0.0}

    candidates["c"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        measure_rounds(blank(make_run), candidates, 5, tmp_path / "run.json")
    kept = Run.read(tmp_path / "run.json")
    assert {len(entry.samples["seconds"]) for entry in kept.entries.values()} == {2}


def test_no_round_begins_once_the_time_is_up(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    # a minute passes with every call
    monkeypatch.setattr(rounds.time, "monotonic", lambda: 60.0 * len(calls))
    done = measure_rounds(blank(make_run), counting(calls), 9, tmp_path / "run.json", minutes=4)
    assert len(done.entries["a"].samples["seconds"]) == 2


def test_a_resumed_run_makes_only_the_missing_rounds(tmp_path: Path, make_run: MakeRun) -> None:
    output, calls = tmp_path / "run.json", list[str]()
    measure_rounds(blank(make_run), counting(calls), 2, output)
    begun = resumed_run(blank(make_run, date="2026-01-09T00:00:00.000000+00:00"), output)
    done = measure_rounds(begun, counting(calls), 3, output)
    assert calls == [*NAMES] * 3
    assert done.entries["b"].samples["seconds"] == [2, 5, 8]
    assert done.date == "2026-01-02"
    assert done.warnings == ("resumed at 2026-01-09T00:00 after 2 rounds",)


@pytest.mark.parametrize(
    "change",
    [
        {"cores": 8},
        {"models": {"compact": "cd"}},
        {"scenario": {"threads": 2, "batches": [1, 2]}},
        {"entries": {"a": Entry({})}},
        {"kind": "end_to_end"},
    ],
)
def test_a_run_continues_only_under_the_same_conditions(
    change: dict[str, Any], tmp_path: Path, make_run: MakeRun
) -> None:
    measure_rounds(blank(make_run), counting([]), 1, tmp_path / "run.json")
    fresh = make_run(**{"entries": {name: Entry({}) for name in NAMES}, **change})
    with pytest.raises(ConfigError):
        resumed_run(fresh, tmp_path / "run.json")


def test_what_fails_in_warm_up_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []
    candidates = counting(calls)

    def fail() -> Mapping[str, float]:
        raise MemoryError("out of memory")

    ready, left_out = warm_up({**candidates, "b": fail}, 2)
    assert (calls, list(ready)) == (["a", "a", "c", "c"], ["a", "c"])
    assert left_out == {"b": "MemoryError in warm-up: out of memory"}
    assert "left out: b" in capsys.readouterr().out
