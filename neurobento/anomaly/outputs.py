"""Make the output files of an anomaly; the command line and the service write the same ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.anomaly.detector import ScanAnomaly, SliceAnomaly
from neurobento.anomaly.figures import NOTE, scan_figure, slice_figure
from neurobento.anomaly.heat_map_file import GREY_LEVELS, heat_map_png, value_per_level
from neurobento.facts import json_bytes, rounded, versions
from neurobento.imaging.scan import Scan, map_bytes
from neurobento.pictures import png_bytes

__all__ = [
    "ANOMALY_FORMAT",
    "anomaly_facts",
    "scan_output_files",
    "slice_facts",
    "slice_output_files",
]

# Version of `<name>_anomaly.json`
ANOMALY_FORMAT = 1

SCAN_NOTE = (
    "The threshold was set by healthy scans of a few sources, and small lesions are below it; "
    "measure one on scans of your own site."
)

LIBRARIES = ("neurobento", "numpy", "nibabel", "scipy", "pillow", "pydicom")


def slice_output_files(
    name: str,
    pixels: NDArray[np.float32],
    anomaly: SliceAnomaly,
    backend_facts: dict[str, Any],
    seconds: dict[str, float],
) -> dict[str, bytes]:
    """Return a slice's output files, name -> content; `seconds` are wall-clock, by stage.

    `<name>_anomaly.json`, `<name>_heatmap.png` (see `heat_map_png`) and `<name>_overlay.png`, the
    slice without and with its heat map. The name is not written into any of them.
    """
    facts = slice_facts(pixels, anomaly, backend_facts, seconds)
    return {
        f"{name}_anomaly.json": json_bytes(facts),
        f"{name}_heatmap.png": heat_map_png(anomaly.heat_map),
        f"{name}_overlay.png": png_bytes(slice_figure(pixels, anomaly)),
    }


def scan_output_files(
    name: str,
    scan: Scan,
    anomaly: ScanAnomaly,
    backend_facts: dict[str, Any],
    seconds: dict[str, float],
) -> dict[str, bytes]:
    """Return a scan's output files, name -> content.

    `<name>_anomaly.json`, `<name>_heatmap.nii.gz`, float32 on the scan's own grid, and
    `<name>_overlay.png`, the slices with the highest scores.
    """
    facts = {
        **anomaly_facts(anomaly, backend_facts, seconds),
        "native_shape": list(scan.shape),
        "heat_map": {"largest": float(anomaly.heat_map.max())},
        "threshold_note": SCAN_NOTE,
        "axis": anomaly.axis,
        "slice_threshold": anomaly.slice_threshold,
        "slices_above_threshold": anomaly.slices_above,
        "slices": [
            {"index": index, "score": score, "anomalous": score > anomaly.slice_threshold}
            for index, score in anomaly.slices.items()
        ],
    }
    return {
        f"{name}_anomaly.json": json_bytes(facts),
        f"{name}_heatmap.nii.gz": map_bytes(anomaly.heat_map, scan.space),
        f"{name}_overlay.png": png_bytes(scan_figure(scan, anomaly)),
    }


def anomaly_facts(
    anomaly: SliceAnomaly | ScanAnomaly, backend_facts: dict[str, Any], seconds: dict[str, float]
) -> dict[str, Any]:
    """Return score and verdict, and what is needed to trust or repeat them."""
    return {
        "format": ANOMALY_FORMAT,
        "note": NOTE,
        "score": anomaly.score,
        "threshold": anomaly.threshold,
        "anomalous": anomaly.is_anomalous,
        **backend_facts,
        "seconds": rounded(seconds),
        "versions": versions(LIBRARIES),
    }


def slice_facts(
    pixels: NDArray[np.float32],
    anomaly: SliceAnomaly,
    backend_facts: dict[str, Any],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Return the content of a slice's `<name>_anomaly.json`."""
    return {
        **anomaly_facts(anomaly, backend_facts, seconds),
        "native_shape": list(pixels.shape),
        "heat_map": {
            "largest": float(anomaly.heat_map.max()),
            "value_per_level": value_per_level(anomaly.heat_map),
            "levels": GREY_LEVELS,
        },
    }
