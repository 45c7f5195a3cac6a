"""The latency benchmark keeps every sample and gives every candidate the same rounds."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.latency import measure
from benchmarks.results import environment, summary


def test_every_round_calls_every_candidate_once_in_turn() -> None:
    calls: list[str] = []
    functions = {name: (lambda _, n=name: calls.append(n)) for name in ("a", "b", "c")}
    seconds = measure(functions, np.zeros((1, 1, 2, 2, 2), np.float32), rounds=3)
    warm_up, rounds = calls[:3], calls[3:]
    assert warm_up == ["a", "b", "c"]
    assert rounds == ["a", "b", "c"] * 3
    assert {name: len(samples) for name, samples in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_slow_candidate_is_measured_as_slow() -> None:
    import time

    functions = {"slow": lambda _: time.sleep(0.03), "quick": lambda _: None}
    seconds = measure(functions, np.zeros((1, 1, 2, 2, 2), np.float32), rounds=2)
    assert min(seconds["slow"]) >= 0.03
    assert max(seconds["quick"]) < 0.03


def test_summary_agrees_with_numpy() -> None:
    samples = np.random.default_rng(0).uniform(1, 2, 50)
    found = summary(samples.tolist())
    assert found["median"] == pytest.approx(np.median(samples), abs=1e-4)
    assert found["p95"] == pytest.approx(np.quantile(samples, 0.95), abs=1e-4)
    assert found["mean"] == pytest.approx(samples.mean(), abs=1e-4)
    assert found["sd"] == pytest.approx(samples.std(ddof=1), abs=1e-4)


def test_the_environment_names_machine_and_versions() -> None:
    found = environment()
    assert found["cores"] >= 1
    assert found["versions"]["numpy"] == np.__version__
    assert len(found["load_at_start"]) == 3
