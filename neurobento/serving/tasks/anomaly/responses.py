"""Encode the anomaly of a slice for a response: JSON, a picture, or a zip of all output files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.anomaly.detector import SliceAnomaly
from neurobento.anomaly.figures import slice_figure
from neurobento.anomaly.outputs import slice_facts, slice_output_files
from neurobento.facts import json_bytes
from neurobento.pictures import png_bytes
from neurobento.serving.http.downloads import FILE_STEM, JSON, PNG, ZIP, zip_files

__all__ = [
    "ENCODERS",
    "FILE_NAMES",
    "Detection",
    "choose_media_type",
    "detection_facts",
    "draw_overlay",
]

DRAWING = threading.BoundedSemaphore(2)
"""Limits the pictures drawn at the same time, over all protocols, for their memory."""


@dataclass(frozen=True, eq=False)
class Detection:
    """The anomaly of a slice, and all that its output files state."""

    pixels: NDArray[np.float32]
    """(rows, columns), as read."""
    anomaly: SliceAnomaly
    error_map: NDArray[np.float32]
    """(128, 128), as the network gave it."""
    facts: dict[str, Any]
    """Model and backend."""
    seconds: dict[str, float]
    """Seconds of each stage."""


def detection_facts(detection: Detection) -> dict[str, Any]:
    """Return the facts that `slice_output_files` writes."""
    return slice_facts(detection.pixels, detection.anomaly, detection.facts, detection.seconds)


def draw_overlay(detection: Detection) -> bytes:
    """Return a PNG of the slice without and with its heat map."""
    with DRAWING:
        return png_bytes(slice_figure(detection.pixels, detection.anomaly))


def _encode_json(detection: Detection, request_id: str) -> bytes:
    return json_bytes({**detection_facts(detection), "request_id": request_id})


def _encode_png(detection: Detection, _: str) -> bytes:
    return draw_overlay(detection)


def _encode_zip(detection: Detection, _: str) -> bytes:
    with DRAWING:
        files = slice_output_files(
            FILE_STEM, detection.pixels, detection.anomaly, detection.facts, detection.seconds
        )
        return zip_files(files)


ENCODERS: Mapping[str, Callable[[Detection, str], bytes]] = {
    JSON: _encode_json,
    PNG: _encode_png,
    ZIP: _encode_zip,
}
"""Media type -> encoder of a detection and a request id."""

FILE_NAMES: Mapping[str, str] = {JSON: "anomaly.json", PNG: "overlay.png", ZIP: "anomaly.zip"}
"""Media type -> name of the download, after the stem of all file names."""


def choose_media_type(accept: str) -> str:
    """Return the first media type of an `Accept` header that there is an encoder for, else JSON."""
    named = [each.partition(";")[0].strip().lower() for each in accept.split(",")]
    # a browser lists pictures too, among all that it can show
    if "text/html" in named:
        return JSON
    return next((each for each in named if each in ENCODERS), JSON)
