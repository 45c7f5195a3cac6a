"""What a measurement leaves: raw samples and the machine they were taken on."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FORMAT", "environment", "summary"]

FORMAT = 1
"""Version of the result files."""

LIBRARIES = ("neurobento", "torch", "openvino", "onnxruntime", "monai", "antspyx", "numpy")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


def environment() -> dict[str, Any]:
    """The machine, its load as the run begins, and the versions of what is measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in _cpuinfo().split()],
        "cores": os.cpu_count(),
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def summary(seconds: Sequence[float]) -> Mapping[str, float]:
    """Median, p95, p99, mean and SD of samples, in seconds."""
    values = np.asarray(seconds)
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    numbers = {"median": p50, "p95": p95, "p99": p99, "mean": values.mean()}
    numbers["sd"] = values.std(ddof=1) if len(values) > 1 else 0.0
    return {name: round(float(value), 4) for name, value in numbers.items()}


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _cpu_model() -> str:
    lines = [line for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return lines[0].split(":", 1)[1].strip() if lines else platform.processor()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
