"""A slice and a scan, and their anomalies by a model with known answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from neurobento.anomaly.detector import AnomalyDetector, ScanAnomaly, SliceAnomaly
from neurobento.imaging.scan import Scan
from tests.neurobento.anomaly.known_anomaly import SCORES, KnownBackend


@pytest.fixture(scope="module")
def pixels(phantom: Any) -> Any:
    return np.ascontiguousarray(phantom.image[:, ::-1, phantom.shape[2] // 2].T)


@pytest.fixture(scope="module")
def anomaly(pixels: Any) -> SliceAnomaly:
    return AnomalyDetector(KnownBackend()).detect(pixels)


@pytest.fixture(scope="module")
def scan(phantom_on: Callable[..., Any]) -> Scan:
    """Its slices go down along the second axis."""
    return phantom_on("AIR", (4.0, 5.0, 4.0)).scan()


@pytest.fixture(scope="module")
def scan_anomaly(scan: Scan) -> ScanAnomaly:
    found = AnomalyDetector(KnownBackend(SCORES + [0.1] * 40)).detect_scan(scan)
    return dataclasses.replace(found, score=0.85)
