"""The answers of a service: output files, checked before anybody reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neurobento.client.service_errors import one_line
from neurobento.errors import ServiceError

__all__ = ["MAX_RESPONSE_BYTES", "AnomalyAnswer", "Answer"]

MAX_RESPONSE_BYTES = 1 << 30
"""Packed or unpacked; the labels of the largest scan are half of it."""

LABELS, RUN = "dseg.nii.gz", "run.json"
ANOMALY, OVERLAY = "anomaly.json", "overlay.png"


@dataclass(frozen=True)
class Answer:
    """One parcellation; raises `ServiceError` when made of anything else."""

    files: Mapping[str, bytes] = field(repr=False)
    """Ending of the name -> content: `dseg.nii.gz`, `run.json` and, from models of preprocessing
    version 2, `mask.nii.gz`; over HTTP also `dseg.tsv`, `volumes.tsv` and `overlay.png`."""
    request_id: str
    """The request's name in the service's log."""

    def __post_init__(self) -> None:
        if not self.files.get(LABELS, b"").startswith(b"\x1f\x8b"):
            raise _unexpected_files("labels as gzip NIfTI", LABELS in self.files)
        _read_facts(self.files, RUN)

    @property
    def dseg(self) -> bytes:
        """The labels as a gzip NIfTI file."""
        return self.files[LABELS]

    @property
    def run(self) -> dict[str, Any]:
        """The facts of the run: model, backend, seconds, versions, warnings."""
        return dict(json.loads(self.files[RUN]))

    @property
    def warnings(self) -> list[str]:
        """The service's reasons to doubt that the scan is a brain, if any."""
        warnings = self.run.get("warnings")
        return [one_line(str(text)) for text in warnings] if isinstance(warnings, list) else []


@dataclass(frozen=True)
class AnomalyAnswer:
    """One slice's anomaly score and pictures; raises `ServiceError` when made of anything else."""

    files: Mapping[str, bytes] = field(repr=False)
    """Ending of the name -> content: `anomaly.json`, `heatmap.png` and `overlay.png`."""
    request_id: str
    """The request's name in the service's log."""

    def __post_init__(self) -> None:
        facts = _read_facts(self.files, ANOMALY)
        numbers = [facts.get("score"), facts.get("threshold")]
        if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            raise _unexpected_files("the numbers score and threshold", True)
        if not self.files.get(OVERLAY, b"").startswith(b"\x89PNG"):
            raise _unexpected_files("a picture as PNG", OVERLAY in self.files)

    @property
    def facts(self) -> dict[str, Any]:
        """The content of `anomaly.json`: score, threshold, model, backend, seconds, versions."""
        return dict(json.loads(self.files[ANOMALY]))

    @property
    def score(self) -> float:
        """The anomaly score: the higher, the less the slice looks like a healthy head's."""
        return float(self.facts["score"])

    @property
    def threshold(self) -> float:
        """The score above which a slice is called anomalous."""
        return float(self.facts["threshold"])

    @property
    def is_anomalous(self) -> bool:
        """True if the score is above the threshold."""
        return self.score > self.threshold

    @property
    def overlay(self) -> bytes:
        """The slice without and with its heat map, a PNG file."""
        return self.files[OVERLAY]


def _read_facts(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        facts = json.loads(files.get(name, b""))
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise _unexpected_files(f"{name} as a JSON object", name in files)
    return facts


def _unexpected_files(expected: str, is_there: bool) -> ServiceError:
    return ServiceError(
        expected=f"an answer with {expected}",
        found="another format" if is_there else "an answer without",
        remedy="Check that a neurobento service of this version answers there.",
    )
