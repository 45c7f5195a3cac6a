"""The command `neurobento anomaly`."""

from __future__ import annotations

import argparse
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from neurobento.cli.options import Work, add_file_options, add_model_options, local_backend
from neurobento.preprocessing.mode import Progress
from neurobento.registry import DEFAULT_ANOMALY_MODEL

__all__ = ["add_anomaly_options", "open_anomaly"]


class _Clock:
    """Tells each stage on, and how many seconds the one before took."""

    def __init__(self, say: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._say = say
        self._stage, self._start = "", 0.0

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] = now - self._start
        self._stage, self._start = stage, now
        self._say(stage)


def add_anomaly_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_file_options(
        command,
        "FILE",
        "a scan: .nii, .nii.gz or .mgz; or a slice: .png, .jpg, .dcm, or a scan file with an axis "
        "of length 1",
        DEFAULT_ANOMALY_MODEL,
    )
    add_model_options(command)


def open_anomaly(args: argparse.Namespace, say: Progress) -> AbstractContextManager[Work]:
    """What finds anomalies in scans and slices, on this machine."""
    # opened for the first file that could be read
    backend = local_backend(args, "anomaly")
    from neurobento.anomaly.detector import AnomalyDetector
    from neurobento.anomaly.outputs import scan_output_files, slice_output_files
    from neurobento.facts import backend_facts
    from neurobento.imaging.scan import read_scan, scan_name
    from neurobento.imaging.slice_file import holds_slice, read_slice

    def find(path: Path) -> tuple[dict[str, bytes], list[str]]:
        clock = _Clock(say)
        clock("read")
        if holds_slice(path):
            pixels = read_slice(path)
            anomaly = AnomalyDetector(backend()).detect(pixels, clock)
            clock("write")
            facts = backend_facts(backend())
            return slice_output_files(scan_name(path), pixels, anomaly, facts, clock.seconds), []
        scan = read_scan(path)
        scan_anomaly = AnomalyDetector(backend()).detect_scan(scan, clock)
        clock("write")
        facts = backend_facts(backend())
        return scan_output_files(scan_name(path), scan, scan_anomaly, facts, clock.seconds), []

    return nullcontext(find)
