"""The command `neurobento anomaly`: find anomalies in scans and slices."""

from __future__ import annotations

import argparse
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from neurobento.cli.each_file import ProcessFile, process_each_file
from neurobento.cli.options import Commands, add_file_options, add_model_options, backend_opener
from neurobento.preprocessing.mode import Progress
from neurobento.registry import DEFAULT_ANOMALY_MODEL

__all__ = ["add_anomaly_command"]


def add_anomaly_command(commands: Commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "anomaly",
        help="score how abnormal scans or slices look, with a heat map",
        description="Score how abnormal heads look, from scans or single slices. Writes "
        "NAME_anomaly.json (score, threshold, verdict), the heat map as NAME_heatmap.nii.gz (of "
        "a scan, on its own voxels) or NAME_heatmap.png (of a slice), and NAME_overlay.png. "
        "For research; not a diagnosis.",
    )
    command.set_defaults(run=_run)
    formats = (
        "a scan: .nii, .nii.gz or .mgz; or a slice: .png, .jpg, .dcm, or a scan file with an axis "
        "of length 1"
    )
    add_file_options(command, "FILE", formats, DEFAULT_ANOMALY_MODEL)
    add_model_options(command, "all cores")


def _run(args: argparse.Namespace) -> int:
    return process_each_file(args, _open_processor, "anomaly.json")


def _open_processor(
    args: argparse.Namespace, progress: Progress
) -> AbstractContextManager[ProcessFile]:
    # opened for the first file that can be read
    backend = backend_opener(args, "anomaly")
    from neurobento.anomaly.detector import AnomalyDetector
    from neurobento.anomaly.outputs import scan_output_files, slice_output_files
    from neurobento.facts import backend_facts
    from neurobento.imaging.scan import read_scan, scan_name
    from neurobento.imaging.slices.reader import holds_slice, read_slice

    def detect(path: Path) -> tuple[dict[str, bytes], list[str]]:
        timer = _StageTimer(progress)
        name = scan_name(path)
        timer.begin("read")
        if holds_slice(path):
            pixels = read_slice(path)
            anomaly = AnomalyDetector(backend()).detect(pixels, timer.begin)
            timer.begin("write")
            facts = backend_facts(backend())
            return slice_output_files(name, pixels, anomaly, facts, timer.seconds), []
        scan = read_scan(path)
        scan_anomaly = AnomalyDetector(backend()).detect_scan(scan, timer.begin)
        timer.begin("write")
        facts = backend_facts(backend())
        return scan_output_files(name, scan, scan_anomaly, facts, timer.seconds), []

    return nullcontext(detect)


class _StageTimer:
    """Reports each stage as it begins, and measures the seconds of those that ended."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._stage, self._start = "", 0.0

    def begin(self, stage: str) -> None:
        """End the current stage, if there is one, and begin the next."""
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] = now - self._start
        self._stage, self._start = stage, now
        self._progress(stage)
