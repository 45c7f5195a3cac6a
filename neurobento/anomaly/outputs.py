"""The files that an anomaly is handed over as; the CLI and the service write the same."""

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

ANOMALY_FORMAT = 1
"""Version of `<name>_anomaly.json`."""

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
    """File name -> content, of a slice.

    `<name>_anomaly.json`, `<name>_heatmap.png` (see `heat_map_png`) and
    `<name>_overlay.png`, the slice without and with the heat map.

    Parameters
    ----------
    name
        What the files are called; it is written into none of them.
    pixels
        (rows, columns), the slice.
    anomaly
        What to write.
    backend_facts
        Of `neurobento.facts.backend_facts`.
    seconds
        Stage -> wall-clock seconds.
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
    scan_anomaly: ScanAnomaly,
    backend_facts: dict[str, Any],
    seconds: dict[str, float],
) -> dict[str, bytes]:
    """File name -> content, of a scan.

    `<name>_anomaly.json`, with the scores of its slices, `<name>_heatmap.nii.gz` (float32 on
    the scan's own grid) and `<name>_overlay.png`, the slices of the highest scores.

    Parameters
    ----------
    name
        What the files are called; it is written into none of them.
    scan
        The scan, for its grid and for the picture.
    scan_anomaly
        What to write.
    backend_facts
        Of `neurobento.facts.backend_facts`.
    seconds
        Stage -> wall-clock seconds.
    """
    facts = anomaly_facts(scan_anomaly, backend_facts, seconds)
    facts["native_shape"] = list(scan.shape)
    facts["heat_map"] = {"largest": float(scan_anomaly.heat_map.max())}
    facts["threshold_note"] = SCAN_NOTE
    facts["axis"] = scan_anomaly.axis
    facts["slice_threshold"] = scan_anomaly.slice_threshold
    facts["slices_above_threshold"] = scan_anomaly.slices_above
    facts["slices"] = [
        {"index": index, "score": score, "anomalous": score > scan_anomaly.slice_threshold}
        for index, score in scan_anomaly.slices.items()
    ]
    return {
        f"{name}_anomaly.json": json_bytes(facts),
        f"{name}_heatmap.nii.gz": map_bytes(scan_anomaly.heat_map, scan.space),
        f"{name}_overlay.png": png_bytes(scan_figure(scan, scan_anomaly)),
    }


def anomaly_facts(
    anomaly: SliceAnomaly | ScanAnomaly, backend_facts: dict[str, Any], seconds: dict[str, float]
) -> dict[str, Any]:
    """What was found, and what somebody needs to trust or repeat it."""
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
    """What stands in `<name>_anomaly.json` of a slice; the parameters are `slice_output_files`'s."""
    return {
        **anomaly_facts(anomaly, backend_facts, seconds),
        "native_shape": list(pixels.shape),
        "heat_map": {
            "largest": float(anomaly.heat_map.max()),
            "value_per_level": value_per_level(anomaly.heat_map),
            "levels": GREY_LEVELS,
        },
    }
