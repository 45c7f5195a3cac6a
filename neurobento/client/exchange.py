"""What goes to a service and what comes back, whichever way it travels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from neurobento.client.refusals import one_line
from neurobento.client.retries import Deadline
from neurobento.errors import ServiceError
from neurobento.preprocessing.mode import Preprocessing

__all__ = [
    "MAX_ANSWER_BYTES",
    "AnomalyAnswer",
    "Answer",
    "Ask",
    "AskAnomaly",
    "Progress",
    "Space",
    "Transport",
    "say_nothing",
]

Space = Literal["native", "network"]
"""Whose grid the labels are on: the scan's own or the network's."""

Progress = Callable[[str, int | None], None]
"""Called with what is going on and, where that is known, how many bytes of it are through."""

MAX_ANSWER_BYTES = 1 << 30
"""What an answer may hold, packed or unpacked; the labels of the largest scan are half of it."""

LABELS, RUN = "dseg.nii.gz", "run.json"
ANOMALY, OVERLAY = "anomaly.json", "overlay.png"


def say_nothing(_: str, __: int | None = None) -> None:
    """The progress of somebody who does not listen."""


@dataclass(frozen=True)
class Ask:
    """One request for a parcellation; the name of the scan's file is no part of it.

    Attributes
    ----------
    content
        Bytes of a scan's file.
    model
        Which network is to answer; None leaves it to the service.
    preprocessing, space
        How much preprocessing the scan needs, and whose grid the labels are to be on.
    request_id
        What the service's log knows the request by.
    """

    content: bytes = field(repr=False)
    model: str | None
    preprocessing: Preprocessing
    space: Space
    request_id: str


@dataclass(frozen=True)
class AskAnomaly:
    """One request about a slice; the name of its file is no part of it.

    Attributes
    ----------
    content
        Bytes of a slice's file.
    model
        Which network is to answer; None leaves it to the service.
    request_id
        What the service's log knows the request by.
    """

    content: bytes = field(repr=False)
    model: str | None
    request_id: str


@dataclass(frozen=True)
class Answer:
    """The files of one parcellation as the service gave them.

    Attributes
    ----------
    files
        Ending of the name -> content. `dseg.nii.gz` and `run.json` are always
        there; over HTTP `dseg.tsv`, `volumes.tsv` and `overlay.png` are too.
    request_id
        What the service's log knows the request by.

    Raises
    ------
    ServiceError
        The labels are missing or not gzip, or the run facts are no JSON object.
    """

    files: Mapping[str, bytes] = field(repr=False)
    request_id: str

    def __post_init__(self) -> None:
        if not self.files.get(LABELS, b"").startswith(b"\x1f\x8b"):
            raise _not_an_answer("gzip NIfTI labels", "none")
        _require_facts(self.files.get(RUN, b""))

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
        """What does not look like a brain, as the service says."""
        found = self.run.get("warnings")
        return [one_line(str(warning)) for warning in found] if isinstance(found, list) else []


@dataclass(frozen=True)
class AnomalyAnswer:
    """What a service found in one slice.

    Attributes
    ----------
    files
        Ending of the name -> content: `anomaly.json`, `heatmap.png` and `overlay.png`.
    request_id
        What the service's log knows the request by.

    Raises
    ------
    ServiceError
        There is no picture, or the facts are no JSON object with a score and a threshold.
    """

    files: Mapping[str, bytes] = field(repr=False)
    request_id: str

    def __post_init__(self) -> None:
        facts = _require_facts(self.files.get(ANOMALY, b""))
        numbers = [facts.get("score"), facts.get("threshold")]
        if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            raise _not_an_answer("a score and a threshold", "others, or none")
        if not self.files.get(OVERLAY, b"").startswith(b"\x89PNG"):
            raise _not_an_answer("a picture as PNG", "none")

    @property
    def facts(self) -> dict[str, Any]:
        """All that is said of the slice: score, threshold, model, backend, seconds, versions."""
        return dict(json.loads(self.files[ANOMALY]))

    @property
    def score(self) -> float:
        """The higher, the less the slice looks healthy."""
        return float(self.facts["score"])

    @property
    def threshold(self) -> float:
        """Above it a slice is called anomalous."""
        return float(self.facts["threshold"])

    @property
    def is_anomalous(self) -> bool:
        """Whether the score is above the threshold."""
        return self.score > self.threshold

    @property
    def overlay(self) -> bytes:
        """The slice without and with its heat map, a PNG file."""
        return self.files[OVERLAY]


class Transport(Protocol):
    """A way to a service; one try each, errors are those of `neurobento.errors`."""

    def parcellate(self, ask: Ask, deadline: Deadline, progress: Progress) -> Answer:
        """The service's answer to one request."""

    def anomaly(self, ask: AskAnomaly, deadline: Deadline, progress: Progress) -> AnomalyAnswer:
        """The service's answer to one request about a slice."""

    def models(self, deadline: Deadline) -> list[dict[str, Any]]:
        """What the service says of its models."""

    def ready(self, deadline: Deadline) -> bool:
        """Whether the service would take a request now."""

    def close(self) -> None:
        """End the connections."""


def _require_facts(content: bytes) -> dict[str, Any]:
    """The facts in a JSON file; raises `ServiceError` where there are none."""
    try:
        facts = json.loads(content)
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise _not_an_answer("the facts of the run as a JSON object", "none")
    return facts


def _not_an_answer(expected: str, found: str) -> ServiceError:
    return ServiceError(
        expected=f"an answer with {expected}",
        found=found,
        remedy="Check that a neurobento service of this version answers there.",
    )
