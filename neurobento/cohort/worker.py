"""Parcellate one scan of a cohort inside a worker process."""

from __future__ import annotations

import csv
import functools
import hashlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neurobento.cohort.resume import matching_record, replace_folder
from neurobento.cohort.scans import CohortScan
from neurobento.errors import ConfigError, ModelError, NeuroBentoError, SpecMismatch
from neurobento.facts import json_bytes
from neurobento.files import file_sha256, require_regular_file
from neurobento.parcellation.outputs import output_files
from neurobento.parcellation.parcellator import Parcellator
from neurobento.preprocessing.mode import Preprocessing
from neurobento.preprocessing.threads import limit_threads
from neurobento.registry import Model
from neurobento.spec import REPORT_A_VERSION

__all__ = ["CohortOptions", "Outcome", "model_sha256", "parcellate_scan"]

# Version of `NAME_cohort.json`
RECORD_FORMAT = 1


@dataclass(frozen=True)
class CohortOptions:
    """Options that hold for every scan of a cohort."""

    preprocessing: Preprocessing
    model: str
    # Of the graph that has to run; a worker that finds another refuses
    model_sha256: str
    # Of the images that it was trained with
    preprocessing_version: int = REPORT_A_VERSION
    # Of the network that finds the brain; "" if none does
    finder_sha256: str = ""
    # Folder of models; None for the installed ones
    models: str | None = None
    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    # Of each worker. They change results by rounding alone, so they do not count as changed.
    threads: int = 1

    @property
    def recorded(self) -> dict[str, Any]:
        """The options that decide the result, as JSON values for the record."""
        finder = {"brain_model_sha256": self.finder_sha256} if self.finder_sha256 else {}
        return {
            # called "level" since the first version, whose records still match
            "level": self.preprocessing,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "backend": self.backend,
            "device": self.device,
            "precision": self.precision,
            "preprocessing_version": self.preprocessing_version,
            **finder,
        }


@dataclass(frozen=True)
class Outcome:
    """The outcome of one scan."""

    # "kept" means that an earlier run's files are still right
    status: Literal["done", "kept", "failed"]
    seconds: float = 0.0
    # Of all cores. Both times are those of the run that made the files, or until the failure.
    cpu_seconds: float = 0.0
    # Of each region, as text; empty after a failure
    volumes_mm3: tuple[str, ...] = ()
    error_type: str = ""
    error: str = ""


def model_sha256(model: Model, precision: str) -> str:
    """Return the SHA-256 of the graph that computes in a precision."""
    return model.spec.int8_sha256 if precision == "int8" else model.spec.onnx_sha256


# A worker with several threads must not run the one model from all of them
_ONE_AT_A_TIME = threading.Lock()


def parcellate_scan(
    scan: CohortScan, output: Path, staging: Path, options: CohortOptions
) -> Outcome:
    """Write a scan's files and record, or keep an earlier run's; only a ModelError is raised."""
    with _ONE_AT_A_TIME:
        stopwatch = _Stopwatch()
        try:
            return _parcellate(scan, output / scan.subfolder, staging, options, stopwatch)
        except ModelError:
            raise
        # one scan must not end a cohort, whatever a library raises about it
        except Exception as error:
            text = error.message if isinstance(error, NeuroBentoError) else repr(error)
            kind = type(error).__name__
            return Outcome("failed", *stopwatch.read(), error_type=kind, error=text)


class _Stopwatch:
    """Seconds since its creation: wall clock, and CPU of this process and its children."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), sum(os.times()[:4])

    def read(self) -> tuple[float, float]:
        wall, cpu = time.perf_counter() - self._wall, sum(os.times()[:4]) - self._cpu
        return round(wall, 3), round(cpu, 3)


def _parcellate(
    scan: CohortScan, folder: Path, staging: Path, options: CohortOptions, stopwatch: _Stopwatch
) -> Outcome:
    require_regular_file(scan.path)
    made_from = {
        "format": RECORD_FORMAT,
        "options": options.recorded,
        "scan_sha256": file_sha256(scan.path),
    }
    # keep an earlier run's files if nothing changed
    earlier = matching_record(folder / f"{scan.name}_cohort.json", made_from)
    if earlier is not None:
        volumes = _read_volumes(folder, scan)
        return Outcome("kept", earlier["seconds"], earlier["cpu_seconds"], volumes)
    # else make all of them, and a record
    files = _output_files(scan, options)
    seconds, cpu_seconds = stopwatch.read()
    record = {
        **made_from,
        "outputs": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }
    files[f"{scan.name}_cohort.json"] = json_bytes(record)
    replace_folder(folder, files, f"{scan.name}_", staging)
    return Outcome("done", seconds, cpu_seconds, _read_volumes(folder, scan))


def _output_files(scan: CohortScan, options: CohortOptions) -> dict[str, bytes]:
    """Return the five files of `neurobento parcellate`."""
    # libraries read it as they start, so it has to be set before they are imported
    limit_threads(options.threads)
    from neurobento.facts import backend_facts
    from neurobento.imaging.scan import read_scan

    image = read_scan(scan.path)
    parcellator = _open_parcellator(options)
    parcellation = parcellator.parcellate(image, options.preprocessing)
    return output_files(scan.name, image, parcellation, backend_facts(parcellator.backend))


@functools.lru_cache(maxsize=1)
def _open_parcellator(options: CohortOptions) -> Parcellator:
    """Open the model; a worker does it once."""
    from neurobento.backends import open_backend
    from neurobento.registry import find_model

    model = find_model(options.model, Path(options.models) if options.models else None)
    _require_same_model(model, options)
    try:
        return Parcellator(
            open_backend(
                model,
                options.backend,
                device=options.device,
                precision=options.precision,
                threads=options.threads,
            )
        )
    except ConfigError as error:
        raise ModelError(**error.parts) from error


def _require_same_model(model: Model, options: CohortOptions) -> None:
    sha256 = model_sha256(model, options.precision)
    if sha256 != options.model_sha256:
        raise SpecMismatch(
            subject=options.model,
            expected=f"the model with SHA-256 {options.model_sha256}",
            found=f"{sha256} on a worker",
            remedy="Give --models a folder that all workers see.",
        )


def _read_volumes(folder: Path, scan: CohortScan) -> tuple[str, ...]:
    """Return the column of mm3, in order of region."""
    text = (folder / f"{scan.name}_volumes.tsv").read_text()
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return tuple(row["volume_mm3"] for row in rows if row["index"].isdigit())
