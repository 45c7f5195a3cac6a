"""The time a service adds is measured and judged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.runs import Run
from benchmarks.service import overhead as module
from benchmarks.service.overhead import IN_PROCESS, judge, main
from neurobento.errors import ConfigError

LIBRARY = {"alone_s": 1.0, "scans_per_s": 1.0}


@pytest.mark.parametrize(
    ("alone_s", "scans_per_s", "held"),
    [
        (1.15, 1.0, (True, True)),
        (1.16, 1.0, (False, True)),
        (1.15, 0.99, (True, False)),
        (0.9, 2.0, (True, True)),
    ],
)
def test_each_requirement_is_judged_by_itself(
    alone_s: float, scans_per_s: float, held: tuple[bool, bool]
) -> None:
    found = judge({IN_PROCESS: LIBRARY, "http": {"alone_s": alone_s, "scans_per_s": scans_per_s}})
    assert tuple(finding.holds for finding in found) == held


def test_every_protocol_is_judged_and_the_verdict_says_its_numbers() -> None:
    grpc = {"alone_s": 1.3, "scans_per_s": 0.5}
    found = judge({IN_PROCESS: LIBRARY, "http": LIBRARY, "grpc": grpc})
    assert [finding.holds for finding in found] == [True, True, False, False]
    assert found[2].text == "grpc, one client: 1.30 x in process (at most 1.15 x)"
    assert found[3].text == "grpc, several: 0.50 x the loop's scans/s (at least 1 x)"


class Known:
    """The library and the service, each with a time of its own."""

    def __init__(self) -> None:
        self.library_s = self.service_s = 0.02
        self.answer = ("ok", "200", b"labels")

    def library(self, args: Any) -> Any:
        async def get_labels() -> bytes:
            await asyncio.sleep(self.library_s)
            return b"labels"

        return get_labels

    @contextlib.asynccontextmanager
    async def open(self, *_: Any) -> AsyncIterator[dict[str, Any]]:
        async def send_scan(content: bytes) -> tuple[str, str, bytes]:
            assert content == b"a scan"
            await asyncio.sleep(self.service_s)
            return self.answer

        yield {"http": send_scan}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Known:
    """Replace the real library and service."""
    both = Known()
    model = SimpleNamespace(spec=SimpleNamespace(name="regions", onnx_sha256="ab"))
    monkeypatch.setattr(module, "_library", both.library)
    monkeypatch.setattr(module, "open_senders", both.open)
    monkeypatch.setattr(module, "find_model", lambda name: model)
    return both


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Three rounds, and four scans by two clients."""
    (tmp_path / "scan.nii.gz").write_bytes(b"a scan")
    return [
        *(str(tmp_path / "scan.nii.gz"), "--url", "http://service.test"),
        *("--rounds", "3", "--warm-up", "1", "--repeats", "1", "--clients", "2", "--scans", "4"),
        *("-o", str(tmp_path / "run.json")),
    ]


@pytest.mark.parametrize("holds", [True, False])
def test_the_exit_status_is_the_verdict_and_the_run_is_written(
    known: Known,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    holds: bool,
) -> None:
    # quicker than the library, or three times as slow for one client, whatever else goes on here
    known.service_s *= 0.5 if holds else 3.0
    assert main(arguments) == int(not holds)
    assert ("does not hold" in capsys.readouterr().out) is not holds
    run = Run.read(tmp_path / "run.json")
    assert (list(run.entries), run.models) == ([IN_PROCESS, "http"], {"regions": "ab"})
    assert [len(samples) for samples in run.entries["http"].samples.values()] == [3, 1]


def test_a_service_with_other_labels_or_no_answer_is_not_measured(
    known: Known, arguments: list[str]
) -> None:
    known.answer = ("ok", "200", b"others")
    with pytest.raises(ConfigError, match="the labels that the library gives"):
        main(arguments)
    known.answer = ("refused", "429", b"")
    with pytest.raises(ConfigError, match="429"):
        main(arguments)
