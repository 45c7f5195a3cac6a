"""One scan of a cohort, as a worker process does it."""

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
from neurobento.files import file_sha256
from neurobento.parcellation.outputs import output_files
from neurobento.parcellation.parcellator import Parcellator
from neurobento.preprocessing.mode import Preprocessing
from neurobento.preprocessing.threads import limit_threads
from neurobento.registry import Model
from neurobento.spec import PREPROCESSING

__all__ = ["CohortOptions", "Outcome", "model_sha256", "parcellate_scan"]

RECORD_FORMAT = 1
"""Version of `NAME_cohort.json`."""


@dataclass(frozen=True)
class CohortOptions:
    """What is done with every scan.

    Attributes
    ----------
    level
        Preprocessing level of the scans.
    model
        Name of the model.
    model_sha256
        Of the graph that has to run, by `model_sha256`: a worker that holds another refuses.
    models
        Folder of models, or None for the repository's.
    backend, device, precision
        As `neurobento.backends.open_backend` takes them.
    threads
        Of each worker; they change no result beyond rounding, so a scan is not done
        again for them.
    """

    preprocessing: Preprocessing
    model: str
    model_sha256: str
    models: str | None = None
    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    threads: int = 1

    @property
    def deciding(self) -> dict[str, Any]:
        """What of them decides the result, as JSON values."""
        return {
            # called "level" since the first version, whose records still hold
            "level": self.preprocessing,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "backend": self.backend,
            "device": self.device,
            "precision": self.precision,
            "preprocessing_version": PREPROCESSING["version"],
        }


@dataclass(frozen=True)
class Outcome:
    """What became of a scan.

    Attributes
    ----------
    status
        "done" now, "kept" from an earlier run, or "failed".
    seconds, cpu_seconds
        What it took, wall clock and of all cores, when it was done; of a failed one, until then.
    volumes_mm3
        Region -> mm3, as text; empty of a failed one.
    error_type, error
        Class and message of a failure, else empty.
    """

    status: Literal["done", "kept", "failed"]
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    volumes_mm3: tuple[str, ...] = ()
    error_type: str = ""
    error: str = ""


def model_sha256(model: Model, precision: str) -> str:
    """SHA-256 of the graph that a precision is computed from."""
    return model.spec.int8_sha256 if precision == "int8" else model.spec.onnx_sha256


_ONE_AT_A_TIME = threading.Lock()
"""A worker of several threads would run one model from all of them."""


def parcellate_scan(scan: CohortScan, output: Path, parts: Path, options: CohortOptions) -> Outcome:
    """A scan's five files and their record in its folder: made now, or an earlier run's.

    An error of the scan ends up in the outcome; it is not raised.

    Parameters
    ----------
    scan
        What to parcellate.
    output
        The cohort's folder.
    parts
        A folder beside it for what is not whole yet.
    options
        What is done with every scan.

    Raises
    ------
    ModelError
        The model cannot be run here: no scan's fault, and every scan's fate.
    """
    with _ONE_AT_A_TIME:
        clock = _Clock()
        try:
            return _parcellate(scan, output / scan.place, parts, options, clock)
        except ModelError:
            raise
        # one scan must not stop a cohort, whatever a library raises over it
        except Exception as error:
            text = error.message if isinstance(error, NeuroBentoError) else repr(error)
            kind = type(error).__name__
            return Outcome("failed", *clock.read(), error_type=kind, error=text)


class _Clock:
    """Seconds since it was made: wall clock, and CPU of this process and what it started."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), sum(os.times()[:4])

    def read(self) -> tuple[float, float]:
        wall, cpu = time.perf_counter() - self._wall, sum(os.times()[:4]) - self._cpu
        return round(wall, 3), round(cpu, 3)


def _parcellate(
    scan: CohortScan, folder: Path, parts: Path, options: CohortOptions, clock: _Clock
) -> Outcome:
    made_from = {
        "format": RECORD_FORMAT,
        "options": options.deciding,
        "scan_sha256": file_sha256(scan.path),
    }
    earlier = matching_record(folder / f"{scan.name}_cohort.json", made_from)
    if earlier is not None:
        return Outcome("kept", earlier["seconds"], earlier["cpu_seconds"], _volumes(folder, scan))
    files = _files(scan, options)
    seconds, cpu_seconds = clock.read()
    record = {
        **made_from,
        "outputs": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }
    files[f"{scan.name}_cohort.json"] = json_bytes(record)
    replace_folder(folder, files, f"{scan.name}_", parts)
    return Outcome("done", seconds, cpu_seconds, _volumes(folder, scan))


def _files(scan: CohortScan, options: CohortOptions) -> dict[str, bytes]:
    """The five files of `neurobento parcellate`."""
    # read by libraries as they start, so before the first of them does
    limit_threads(options.threads)
    from neurobento.facts import backend_facts
    from neurobento.imaging.scan import read_scan

    image = read_scan(scan.path)
    parcellator = _open(options)
    parcellation = parcellator.parcellate(image, options.preprocessing)
    return output_files(scan.name, image, parcellation, backend_facts(parcellator.backend))


@functools.lru_cache(maxsize=1)
def _open(options: CohortOptions) -> Parcellator:
    """The model, opened once in a worker's life."""
    from neurobento.backends import open_backend
    from neurobento.registry import find_model

    model = find_model(options.model, Path(options.models) if options.models else None)
    _require_same(model, options)
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


def _require_same(model: Model, options: CohortOptions) -> None:
    found = model_sha256(model, options.precision)
    if found != options.model_sha256:
        raise SpecMismatch(
            subject=options.model,
            expected=f"the model with SHA-256 {options.model_sha256}",
            found=f"{found} on a worker",
            remedy="Let all workers see one folder of models, with --models.",
        )


def _volumes(folder: Path, scan: CohortScan) -> tuple[str, ...]:
    """The column of mm3, region by region."""
    text = (folder / f"{scan.name}_volumes.tsv").read_text()
    return tuple(row["volume_mm3"] for row in csv.DictReader(text.splitlines(), delimiter="\t"))
