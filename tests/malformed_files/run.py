"""Run malformed files through the core in one process, and measure the cost of each."""

from __future__ import annotations

import gzip
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
from neurobento.spec import REPORT_A_VERSION
from tests.malformed_files.cases import Case, malformed
from tests.malformed_files.process import memory_bytes, reset_peak
from tests.malformed_files.scan_bytes import SECRET

__all__ = ["Outcome", "outcomes"]

AGAIN_S, TRIES = 1.0, 3
"""Slower files are timed again and the best time counts, because other processes slow a core."""


@dataclass(frozen=True)
class Outcome:
    """The result of one file."""

    # Of the case.
    name: str
    # True if the result is right for the case.
    expected: bool
    # Class of the error; None if the file was accepted.
    error: str | None
    # Its public message.
    message: str
    # Traceback of an unexpected error.
    crash: str | None
    # Time of the process, which on an idle machine is the wall clock's: nothing waits.
    cpu_s: float
    wall_s: float
    # Resident memory above that before.
    peak_bytes: int

    @property
    def kind(self) -> str:
        """The kind of damage."""
        return self.name.split(":")[0]


def outcomes(seed: int, count: int) -> list[Outcome]:
    """Return the results of `count` malformed files; a warning counts as a crash."""
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
        prepare(scan, case.options["preprocessing"], REPORT_A_VERSION)  # type: ignore[arg-type]
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
    """Return the fault of a scan that was read or of labels written onto its grid, or None."""
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
