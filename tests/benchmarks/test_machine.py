"""The facts of a machine have nulls for what it lacks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import machine
from benchmarks.machine import gpu_memory_used_bytes, load_warnings, machine_facts

SMI = """#!/bin/sh
case "$*" in
  *name,driver_version*) echo "NVIDIA Abacus, 570.1, 1024" ;;
  *memory.used*) echo "3" ;;
  *) exit 2 ;;
esac
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's command that knows one GPU."""
    command = tmp_path / "nvidia-smi"
    command.write_text(SMI)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_the_environment_names_machine_and_versions() -> None:
    found = machine_facts()
    assert found["cores"] == os.cpu_count()
    assert found["versions"]["numpy"] == np.__version__
    assert {"tensorrt", "tensorrt_rtx", "onnxruntime-gpu"} <= set(found["versions"])
    assert len(found["load_at_start"]) == 3


def test_what_is_not_installed_is_null_and_flags_are_whole_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "LIBRARIES", ("no-such-library",))
    monkeypatch.setattr(machine, "_cpuinfo", lambda: "flags : avx512f_new amx_bf16\n")
    found = machine_facts()
    assert found["versions"] == {"no-such-library": None}
    assert found["cpu_flags"] == ["amx_bf16"]


@pytest.mark.usefixtures("nvidia_smi")
def test_a_gpu_is_named_with_its_driver_and_memory() -> None:
    gpu = {"name": "NVIDIA Abacus", "driver": "570.1", "memory_bytes": 1 << 30}
    assert machine_facts()["gpu"] == gpu
    assert gpu_memory_used_bytes() == 3 << 20


@pytest.mark.parametrize(
    "error", [FileNotFoundError(), subprocess.CalledProcessError(9, "nvidia-smi")]
)
def test_without_a_driver_there_is_no_gpu(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert machine_facts()["gpu"] is None
    assert gpu_memory_used_bytes() is None


@pytest.mark.parametrize(("load", "noisy"), [(0.5, False), (0.51, True)])
def test_a_busy_machine_is_warned_of(load: float, noisy: bool) -> None:
    found = load_warnings({"load_at_start": [load, 0, 0], "date": "2026-01-02T03:04:05"})
    assert len(found) == noisy
    assert all(f"{load:.2f}" in text for text in found)
