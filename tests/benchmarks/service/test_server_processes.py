"""A server's processes are known by name, with their memory and temporary files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.service.faults import pids_by_kind
from benchmarks.service.server_processes import (
    memory_growth,
    process_names,
    require_server,
    temporary_files,
)
from neurobento.errors import ConfigError


def test_growth_is_the_last_minute_over_the_third() -> None:
    times = [float(t) for t in range(0, 600, 5)]
    rising = [100 + t / 10 for t in times]
    expected = (100 + sum(t for t in times if t >= 535) / 13 / 10) / (
        100 + sum(range(120, 180, 5)) / 12 / 10
    )
    assert memory_growth(times, rising) == pytest.approx(expected)
    assert memory_growth(times, [7.0] * len(times)) == 1.0
    assert memory_growth(times[:30], rising[:30]) is None
    assert memory_growth([], []) is None


def test_processes_are_named_by_their_service() -> None:
    """A service as BentoML starts it, and something else; both sleep."""
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    service = subprocess.Popen([*sleep, "--service-name", "runner-regions"])
    other = subprocess.Popen(sleep)
    try:
        names = process_names(os.getpid())
        assert names[os.getpid()] == "master"
        assert names[service.pid] == "runner-regions"
        assert other.pid not in names
        assert pids_by_kind(os.getpid())["runner-regions"] == [service.pid]
    finally:
        for process in (service, other):
            process.kill()
            process.wait()


def test_files_are_found_in_the_folder_that_the_services_know(tmp_path: Path) -> None:
    environment = {**os.environ, "NEUROBENTO_RUN": str(tmp_path)}
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    service = subprocess.Popen(sleep, env=environment)
    try:
        assert temporary_files(os.getpid()) is None
        (tmp_path / "tmp" / "inner").mkdir(parents=True)
        assert temporary_files(os.getpid()) == []
        (tmp_path / "tmp" / "inner" / "upload-abc").touch()
        assert temporary_files(os.getpid()) == ["upload"]
    finally:
        service.kill()
        service.wait()
    assert temporary_files(os.getpid()) is None


def test_a_process_that_has_started_no_service_is_an_error() -> None:
    with pytest.raises(ConfigError, match="a process without services"):
        require_server(os.getpid())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(ConfigError, match="no such process"):
        require_server(gone.pid)
