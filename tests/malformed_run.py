"""Runs malformed files through the core in one process, and measures what each costs it."""

from __future__ import annotations

import gzip
import os
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from neurobento.errors import NeuroBentoError
from neurobento.imaging.scan import Scan, label_bytes, read_scan
from neurobento.parcellation.parcellator import prepare
from tests.malformed import Case, malformed
from tests.scan_bytes import SECRET

__all__ = ["Outcome", "memory_bytes", "outcomes", "processor_s", "reset_peak"]

AGAIN_S, TRIES = 1.0, 3
"""What took longer is timed again, and the best counts: other processes slow a core down too."""


@dataclass(frozen=True)
class Outcome:
    """What came of one file.

    Attributes
    ----------
    name
        Of the case.
    expected
        Whether the outcome is one of those that are right for it.
    error
        Class of the error; None where the file was taken.
    message
        Its public message.
    crash
        Traceback of what should not have happened.
    cpu_s, wall_s
        Time of the process, which on an idle machine is the wall clock's: nothing waits.
    peak_bytes
        Resident memory above that before.
    """

    name: str
    expected: bool
    error: str | None
    message: str
    crash: str | None
    cpu_s: float
    wall_s: float
    peak_bytes: int

    @property
    def kind(self) -> str:
        """The kind of damage."""
        return self.name.split(":")[0]


def memory_bytes(field: str, process: int | str = "self") -> int:
    """`VmRSS` (now) or `VmHWM` (peak) of a process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0


def processor_s(process: int) -> float:
    """Seconds that a process has worked so far (proc(5), stat)."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def reset_peak(process: int | str = "self") -> None:
    """Let a process's `VmHWM` begin anew (proc(5), clear_refs)."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def outcomes(seed: int, count: int) -> list[Outcome]:
    """What comes of that many malformed files at level "none"; a warning counts as a crash."""
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan"
        found = []
        for case in malformed(seed, count):
            path.write_bytes(case.content)
            outcome = _outcome(case, path)
            for _ in range(1, TRIES):
                if outcome.wall_s > AGAIN_S:
                    outcome = min(outcome, _outcome(case, path), key=lambda each: each.wall_s)
            found.append(outcome)
        return found


def _outcome(case: Case, path: Path) -> Outcome:
    error, crash, scan = None, None, None
    reset_peak()
    before = memory_bytes("VmRSS")
    start, start_cpu = time.perf_counter(), time.process_time()
    try:
        scan = read_scan(path)
        prepare(scan, "none")
    except NeuroBentoError as refusal:
        error = refusal
    except BaseException:
        crash = traceback.format_exc()
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    peak_bytes = memory_bytes("VmHWM") - before
    if scan is not None and crash is None:
        crash = _fault_of(scan)
    return Outcome(
        case.name,
        case.expected is None or isinstance(error, case.expected),
        type(error).__name__ if error else None,
        error.public_message if error else "",
        crash,
        cpu_s,
        wall_s,
        peak_bytes,
    )


def _fault_of(scan: Scan) -> str | None:
    """What is wrong with a scan that was read, or with labels written back onto its grid."""
    array = scan.array
    if array.dtype != np.float32 or array.flags.writeable or not np.isfinite(array).all():
        return "the voxels are not finite float32"
    try:
        plain = gzip.decompress(label_bytes(np.ones(scan.shape, np.uint8), scan.space))
        kind = nib.Nifti2Image if plain[:1] == b"\x1c" else nib.Nifti1Image
        labels = kind.from_bytes(plain)
    except Exception:
        return traceback.format_exc()
    if SECRET in plain:
        return "the labels repeat the text of the header"
    if not np.allclose(labels.affine, scan.voxel_to_ras, rtol=1e-5, atol=1e-3):
        return "the labels lie elsewhere"
    if not (labels.header["pixdim"][1:4] > 0).all():
        return "the labels have no voxel sizes"
    return None
