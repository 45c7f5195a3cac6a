"""Every request of a closed loop is counted, and wrong labels are told from right ones."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from benchmarks.service import closed_loop
from benchmarks.service.closed_loop import outcomes_entry, reference_labels, run_clients, send_until
from neurobento.errors import ConfigError

SCANS = [b"one", b"two"]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_loop, "PAUSE_S", 0.0)


def sent(times: int, send_scan: Any, expected: Any, timeout_s: float = 1.0) -> list[Any]:
    """Return so many requests of one client."""
    remaining = iter([False] * times)
    return asyncio.run(
        send_until(
            send_scan, SCANS, expected, lambda: next(remaining, True), timeout_s=timeout_s, seed=1
        )
    )


def test_only_the_labels_of_the_single_call_are_right() -> None:
    async def send_scan(scan: bytes) -> tuple[str, str, bytes]:
        return "ok", "200", b"labels of " + scan

    right = [b"labels of " + scan for scan in SCANS]
    assert {outcome for outcome, *_ in sent(8, send_scan, right)} == {"ok"}
    assert {outcome for outcome, *_ in sent(8, send_scan, None)} == {"ok"}
    swapped = sent(8, send_scan, right[::-1])
    assert {(each.outcome, each.status) for each in swapped} == {("failed", "other labels")}


def test_every_outcome_is_counted_and_a_hang_is_one() -> None:
    calls = itertools.count()

    async def send_scan(scan: bytes) -> tuple[str, str, bytes]:
        call = next(calls)
        if call == 2:
            await asyncio.sleep(60)
        return (("refused", "429", b""), ("ok", "200", scan))[call % 2]

    entry = outcomes_entry(sent(6, send_scan, SCANS, timeout_s=0.05))
    assert entry.facts["outcomes"] == {"refused": 2, "ok": 3, "timeout": 1}
    assert entry.facts["statuses"] == {"429": 2, "200": 3, "none": 1}
    lengths = {name: len(values) for name, values in entry.samples.items()}
    assert lengths == {"refused_s": 2, "ok_s": 3, "timeout_s": 1}
    assert entry.samples["timeout_s"][0] >= 0.05


def test_clients_alternate_between_the_protocols() -> None:
    remaining = iter([False] * 3)

    async def send_scan(scan: bytes) -> tuple[Any, str, bytes]:
        return "ok", "200", scan

    senders = {"http": send_scan, "grpc": send_scan}
    found = asyncio.run(run_clients(senders, 3, SCANS, SCANS, lambda: next(remaining, True), 1.0))
    assert (len(found["http"]), len(found["grpc"]), len(found)) == (2, 1, 2)


def test_a_scan_that_is_not_answered_alone_is_an_error() -> None:
    async def send_scan(scan: bytes) -> tuple[Any, str, bytes]:
        return ("ok", "200", b"labels") if scan == b"one" else ("failed", "422", b"")

    assert asyncio.run(reference_labels(send_scan, SCANS[:1])) == [b"labels"]
    with pytest.raises(ConfigError, match="422"):
        asyncio.run(reference_labels(send_scan, SCANS))
