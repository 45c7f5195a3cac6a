"""What is said of a slice: as JSON, as a picture, or as a zip of files."""

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
"""Pictures that are drawn at the same time, whichever way they were asked for: each of the largest
slice holds some of its pictures in memory, and there are as many callers as places."""


@dataclass(frozen=True, eq=False)
class Detection:
    """All that there is to say of a slice.

    Attributes
    ----------
    pixels
        (rows, columns) float32, as it was read.
    anomaly
        What was found.
    error_map
        (128, 128) float32, as the network gave it.
    facts
        Model and backend.
    seconds
        Of each stage.
    """

    pixels: NDArray[np.float32]
    anomaly: SliceAnomaly
    error_map: NDArray[np.float32]
    facts: dict[str, Any]
    seconds: dict[str, float]


def detection_facts(detection: Detection) -> dict[str, Any]:
    """The facts of a slice, those that `slice_output_files` writes."""
    of = detection.pixels, detection.anomaly, detection.facts, detection.seconds
    return slice_facts(*of)


def draw_overlay(detection: Detection) -> bytes:
    """A PNG of the slice, without and with its heat map."""
    with DRAWING:
        return png_bytes(slice_figure(detection.pixels, detection.anomaly))


def _json(detection: Detection, request_id: str) -> bytes:
    return json_bytes({**detection_facts(detection), "request_id": request_id})


def _picture(detection: Detection, _: str) -> bytes:
    return draw_overlay(detection)


def _archive(detection: Detection, _: str) -> bytes:
    of = detection.pixels, detection.anomaly, detection.facts, detection.seconds
    with DRAWING:
        return zip_files(slice_output_files(FILE_STEM, *of))


ENCODERS: Mapping[str, Callable[[Detection, str], bytes]] = {
    JSON: _json,
    PNG: _picture,
    ZIP: _archive,
}
"""Media type -> what makes such an answer, of a detection and a request's id."""

FILE_NAMES: Mapping[str, str] = {JSON: "anomaly.json", PNG: "overlay.png", ZIP: "anomaly.zip"}
"""What an answer is called, behind the stem of all file names."""


def choose_media_type(accept: str) -> str:
    """What to answer with, by the `Accept` of a request: JSON unless it names another first."""
    named = [each.partition(";")[0].strip().lower() for each in accept.split(",")]
    # a browser names pictures among all that it can show
    if "text/html" in named:
        return JSON
    return next((each for each in named if each in ENCODERS), JSON)
