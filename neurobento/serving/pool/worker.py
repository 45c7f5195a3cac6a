"""Prepare scans and slices in a process that a file may crash without harm to the service."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from neurobento.anomaly.fit import fit_slice
from neurobento.errors import NeuroBentoError, PreprocessingFailed
from neurobento.imaging.scan import read_scan
from neurobento.imaging.slices.reader import read_slice
from neurobento.parcellation.parcellator import prepare
from neurobento.preprocessing.mode import Preprocessing
from neurobento.preprocessing.threads import limit_threads
from neurobento.serving.admission import Kind
from neurobento.serving.pool.serialisation import pack_error, pack_scan, pack_slice
from neurobento.serving.process.child_process import die_with_parent, lower_priority
from neurobento.serving.process.exhaustion import exhaustion_error
from neurobento.serving.telemetry.logs import set_up_logging
from neurobento.spec import REPORT_A_VERSION

__all__ = ["READY", "import_readers", "import_toolkits", "run_worker"]

READY = "ready"
"""First message of a worker: it has imported what it needs."""


def run_worker(
    pipe: Connection, threads: int, import_libraries: Callable[[], None], parent: int
) -> None:
    """Receive the names of files through the pipe and send back what was made of each."""
    # as an exception, so that ROBEX is ended on the way out
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    # Ctrl-C reaches every process of a terminal; the parent ends its workers itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_up_logging()
    lower_priority()
    limit_threads(threads)
    import_libraries()
    pipe.send(READY)
    with contextlib.suppress(EOFError):
        while True:
            path, kind, version, folder, ticket = pipe.recv()
            # temporary files that a library leaves behind are removed with the folder
            tempfile.tempdir = folder
            pipe.send(prepare_file(path, kind, path.with_name(f"{ticket}.image"), version))


def import_toolkits(versions: Collection[int]) -> None:
    """Load what models of these preprocessing versions need."""
    if REPORT_A_VERSION in versions:
        import scipy.ndimage  # noqa: F401
    if set(versions) - {REPORT_A_VERSION}:
        from neurobento.preprocessing.brain import load_finder

        # models of the other version need none; scans that do need it get the error
        with contextlib.suppress(NeuroBentoError):
            load_finder()


def import_readers() -> None:
    """Import what is enough to read slices and scans that are on the network grid already."""
    import PIL.Image
    import pydicom.pixels  # noqa: F401
    import scipy.ndimage  # noqa: F401

    # Pillow would otherwise look for its format plugins at the first picture
    PIL.Image.preinit()


def prepare_file(
    path: Path, kind: Kind, image: Path, version: int = REPORT_A_VERSION
) -> dict[str, Any]:
    """Return what was made of a file, or its error, packed; write the array to `image`.

    `version` is that of a scan's preprocessing.
    """
    try:
        if kind == "slice":
            return _prepare_slice(path, image)
        return _prepare_scan(path, kind, version, image)
    except NeuroBentoError as error:
        return pack_error(error)
    # a library's message may quote a path or the header, its class does not
    except Exception as error:
        if (lacking := exhaustion_error(error)) is not None:
            return pack_error(lacking)
        another = "" if kind == "slice" else "try another preprocessing, or "
        return pack_error(
            PreprocessingFailed(
                expected="preprocessing to run through",
                found=f"{type(error).__name__} in {_innermost_line(error)}",
                remedy=f"The same file will fail again; {another}report it.",
            )
        )


def _prepare_scan(
    path: Path, preprocessing: Preprocessing, version: int, image: Path
) -> dict[str, Any]:
    start = time.perf_counter()
    scan = read_scan(path)
    decode_s = time.perf_counter() - start
    prepared = prepare(scan, preprocessing, version)
    seconds = {"decode": decode_s, **prepared.seconds}
    return pack_scan(dataclasses.replace(prepared, seconds=seconds), image)


def _prepare_slice(path: Path, image: Path) -> dict[str, Any]:
    start = time.perf_counter()
    pixels = read_slice(path)
    decoded = time.perf_counter()
    fitted = fit_slice(pixels)
    seconds = {"decode": decoded - start, "fit": time.perf_counter() - decoded}
    return pack_slice(pixels, fitted, seconds, image)


def _innermost_line(error: BaseException) -> str:
    """Return the last module and line of ours that an exception passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "neurobento" in Path(frame.filename).parts]
    return f"{Path(ours[-1].filename).stem}, line {ours[-1].lineno}" if ours else "a library"
