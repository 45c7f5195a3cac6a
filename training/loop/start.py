"""Prepare a training command's folder and process."""

from __future__ import annotations

import ctypes
from pathlib import Path

from neurobento.errors import ConfigError

__all__ = ["check_folder", "keep_freed_memory"]

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Options of mallopt, from glibc's malloc.h."""


def check_folder(folder: Path, *, resume: bool) -> None:
    """Raise ConfigError if a new run's folder has a run in it, or one to continue has none."""
    if (folder / "last.pt").is_file() != resume:
        raise ConfigError(
            subject=str(folder),
            expected="a run to continue" if resume else "a folder without a run in it",
            found="no last.pt" if resume else "last.pt",
            remedy="Name another folder."
            if resume
            else "Continue with --resume, or name another folder.",
        )


def keep_freed_memory() -> None:
    """Make glibc reuse the memory of large tensors: the system clears returned pages again."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(M_TOP_PAD, 2**30)
