"""Measure the memory and the time of a process through /proc."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["memory_bytes", "processor_s", "reset_peak"]


def memory_bytes(field: str, process: int | str = "self") -> int:
    """Return the `VmRSS` (now) or `VmHWM` (peak) of a process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0


def processor_s(process: int) -> float:
    """Return the seconds of processor time of a process (proc(5), stat)."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def reset_peak(process: int | str = "self") -> None:
    """Reset the `VmHWM` of a process (proc(5), clear_refs)."""
    Path(f"/proc/{process}/clear_refs").write_text("5")
