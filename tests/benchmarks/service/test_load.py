"""Load on a service of known behaviour comes out as that behaviour."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.runs import Entry, Run
from benchmarks.service import load as module
from benchmarks.service import pages
from benchmarks.service.batch_sizes import BATCH_METRIC
from benchmarks.service.load import judge, main, rate_entry
from benchmarks.service.open_loop import ScheduledRequest
from neurobento.errors import ConfigError

URL = "http://service.test"


class Service:
    """Answers every request but each third, which it refuses at once."""

    def __init__(self) -> None:
        self.sent = 0
        self.pages: list[str] = []

    @contextlib.asynccontextmanager
    async def open(self, protocol: str, url: str, model: str, _: str) -> AsyncIterator[Any]:
        assert (protocol, url, model) == ("http", URL, "regions")

        async def send_scan(scan: bytes) -> tuple[str, str, bytes]:
            assert scan == b"a scan"
            self.sent += 1
            if self.sent % 3 == 0:
                return "refused", "429", b""
            await asyncio.sleep(0.05)
            return "ok", "200", b""

        yield send_scan

    def read_page(self, url: str, path: str) -> Any:
        self.pages.append(f"{url}{path}")
        if path == "/v1/models":
            return Page(json.dumps({"models": [{"name": "regions", "onnx_sha256": "ab"}]}))
        labels = 'runner_name="runner-regions"'
        return Page(
            f"# TYPE {BATCH_METRIC} histogram\n"
            f'{BATCH_METRIC}_bucket{{le="1.0",{labels}}} {self.sent}\n'
            f'{BATCH_METRIC}_bucket{{le="+Inf",{labels}}} {self.sent}\n'
            f"{BATCH_METRIC}_count{{{labels}}} {self.sent}\n"
            f"{BATCH_METRIC}_sum{{{labels}}} {self.sent}\n"
        )


class Page:
    """A page's text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def json(self) -> Any:
        return json.loads(self.text)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    """Replace the network with the service."""
    known = Service()
    monkeypatch.setattr(module, "open_sender", known.open)
    for user in (module, pages):
        monkeypatch.setattr(user, "read_page", known.read_page)
    return known


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Two rates of a tenth of a second each."""
    (tmp_path / "patient.nii.gz").write_bytes(b"a scan")
    return [
        *(str(tmp_path / "patient.nii.gz"), "--url", URL, "-o", str(tmp_path / "run.json")),
        *("--rates", "30", "60", "--seconds", "0.1", "--arrivals", "constant"),
    ]


@pytest.mark.alone
def test_every_rate_is_an_entry(service: Service, arguments: list[str], tmp_path: Path) -> None:
    assert main(arguments) == 0
    run = Run.read(tmp_path / "run.json")
    assert run.models == {"regions": "ab"}
    assert list(run.entries) == ["30/s", "60/s"]
    facts = run.entries["60/s"].facts
    # one to warm up, three at 30/s, six at 60/s
    assert service.sent == 10
    assert (facts["sent"], facts["outcomes"]) == (6, {"ok": 4, "refused": 2})
    assert facts["statuses"] == {"200": 4, "429": 2}
    assert facts["batch_sizes"]["runner-regions"]["batches"] == 6
    samples = run.entries["60/s"].samples
    assert all(0.05 <= seconds < 0.2 for seconds in samples["ok_s"])
    assert all(seconds < 0.05 for seconds in samples["refused_s"])
    assert samples["refused_due_s"] == pytest.approx([1 / 60, 4 / 60], abs=1e-6)


def test_only_the_given_url_is_contacted_no_name_is_kept_and_no_run_is_written_over(
    service: Service, arguments: list[str], tmp_path: Path
) -> None:
    main(arguments)
    assert {page.rsplit("/", 1)[0] for page in service.pages} <= {URL, f"{URL}/v1"}
    assert "patient" not in (tmp_path / "run.json").read_text()
    with pytest.raises(ConfigError, match="another file"):
        main(arguments)


def test_without_a_service_there_is_an_error(arguments: list[str]) -> None:
    arguments[2] = "http://127.0.0.1:9"
    with pytest.raises(ConfigError, match="a running service"):
        main(arguments)


def test_throughput_counts_what_was_answered_until_the_end() -> None:
    requests = [
        ScheduledRequest(0.0, 1.0, "ok", "200"),
        ScheduledRequest(1.0, 3.0, "ok", "200"),
        ScheduledRequest(2.0, 0.1, "refused", "429"),
        ScheduledRequest(3.0, 2.0, "timeout", "timeout"),
    ]
    entry = rate_entry(requests, 1.0, {})
    assert entry.facts["throughput_per_s"] == pytest.approx(2 / 5)
    assert entry.samples["ok_s"] == [1.0, 3.0]
    assert entry.samples["timeout_due_s"] == [3.0]


def entry(
    ok_s: list[float],
    throughput: float,
    refused_s: list[float],
    rate_per_s: float = 2.0,
    **others: int,
) -> Entry:
    """Return the results of a rate, as far as they are judged."""
    samples = {"ok_s": ok_s, "refused_s": refused_s}
    named = {name: seconds for name, seconds in samples.items() if seconds}
    outcomes = {name.removesuffix("_s"): len(seconds) for name, seconds in named.items()} | others
    facts = {"throughput_per_s": throughput, "rate_per_s": rate_per_s, "outcomes": outcomes}
    return Entry(facts, named)


CAPACITY = entry([1.0, 2.0], 1.0, [], 1.0)


@pytest.mark.parametrize(
    ("overloaded", "held"),
    [
        (entry([2.0, 3.9], 0.91, [0.01, 0.099]), (True, True, True, True)),
        (entry([2.0, 4.1], 0.91, [0.01, 0.099]), (False, True, True, True)),
        (entry([2.0, 3.9], 0.89, [0.01, 0.099]), (True, False, True, True)),
        (entry([2.0, 3.9], 0.91, [0.01, 0.099], failed=1), (True, True, False, True)),
        (entry([2.0, 3.9], 0.91, [0.01, 0.099], timeout=1), (True, True, False, True)),
        (entry([2.0, 3.9], 0.91, [0.01, 0.1]), (True, True, True, False)),
        (entry([2.0, 3.9], 0.91, [], 2.4), (True, True, True, True)),
        (entry([2.0, 3.9], 0.91, [], 2.5), (True, True, True, False)),
        (entry([2.0, 3.9], 0.91, [0.01], 3.0), (True, True, True, True)),
        (entry([], 0.0, [0.01]), (False, False, True, True)),
    ],
)
def test_each_requirement_is_judged_by_itself(overloaded: Entry, held: tuple[bool, ...]) -> None:
    assert tuple(finding.holds for finding in judge(CAPACITY, overloaded)) == held


def test_a_service_that_answers_nothing_has_no_capacity() -> None:
    nothing = entry([], 0.0, [])
    assert [finding.holds for finding in judge(nothing, nothing)] == [False, False, True, True]


def test_requests_that_fail_at_the_capacity_count_too() -> None:
    failing = entry([1.0, 2.0], 1.0, [], 1.0, failed=3)
    outcomes = judge(failing, entry([2.0], 1.0, [0.01], 3.0, timeout=2))[2]
    assert not outcomes.holds
    assert outcomes.text == "outcomes: 3 failed at 1/s, 2 timeout at 3/s (only ok and refused)"


def test_the_verdict_says_its_numbers() -> None:
    overloaded = entry([3.0], 0.8, [0.01, 0.02, 0.03, 0.171])
    latency, throughput, outcomes, refusals = judge(CAPACITY, overloaded)
    assert outcomes.text == "outcomes: no others (only ok and refused)"
    assert latency.text == "p99: 3.000 s, 1.51 x 1.990 s (at most 2 x)"
    assert throughput.text == "answered: 0.800/s, 0.80 x 1.000/s (at least 0.9 x)"
    assert refusals.text == "refusals: 75.0 % of 4 in less than 100 ms, the slowest 171 ms"
    none = judge(CAPACITY, entry([3.0], 0.8, [], 3.0))[3]
    assert none.text == "refusals: none at 3.00 x the capacity (some from 2.5 x)"


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("holds", [True, False])
def test_the_exit_status_is_the_verdict_and_the_run_is_written(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    holds: bool,
) -> None:
    # of the throughput: the service answers more at the higher rate
    monkeypatch.setattr(module, "LEAST_THROUGHPUT", 0.1 if holds else 100.0)
    assert main([*arguments, "--capacity", "30"]) == int(not holds)
    assert ("does not hold" in capsys.readouterr().out) is not holds
    run = Run.read(tmp_path / "run.json")
    assert (list(run.entries), run.scenario["capacity"]) == (["30/s", "60/s"], 30.0)


@pytest.mark.parametrize("capacity", ["45", "60"])
def test_the_capacity_is_one_of_the_rates_below_the_highest(
    arguments: list[str], capacity: str
) -> None:
    with pytest.raises(ConfigError, match="one of --rates"):
        main([*arguments, "--capacity", capacity])
