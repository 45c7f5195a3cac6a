"""What a comparison of networks found, in numbers."""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.dice import Summary, summarise
from neurobento.registry import Model
from training.parcellation.dataset import Split
from training.parcellation.scores import Scores
from training.studies.independent_truth import structures

__all__ = ["REPORT_A", "Findings", "Network", "machine"]

FINDINGS_FORMAT = 1

REPORT_A: dict[str, dict[str, Any]] = {
    "highresnet": {
        "hours": 37.0,
        "epochs": 150,
        "dice": 81.64,
        "spread": 0.09,
        "interval": (80.40, 82.88),
        "prediction_s": (0.051, 0.001),
    },
    "unet": {
        "hours": 0.31,
        "epochs": 43,
        "dice": 83.13,
        "spread": 0.08,
        "interval": (82.04, 84.23),
        "prediction_s": (0.079, 0.013),
    },
}
"""Its tables 3.1, 4.1, 4.2 and 4.3: 1,200 training scans, 200 test scans, an RTX 4090."""


@dataclass(frozen=True, eq=False)
class Network:
    """One model's answers and how they score.

    Attributes
    ----------
    model
        What answered.
    scores
        Test group -> Dice.
    distances
        (scans, 117) HD95 in mm on the first group.
    missing
        (scans, 117) bool on the first group: in the reference, not predicted.
    truth
        Independent source -> per scan: structure -> Dice.
    seconds
        Of each prediction on the first group.
    """

    model: Model
    scores: dict[str, Scores]
    distances: NDArray[np.float64]
    missing: NDArray[np.bool_]
    truth: dict[str, dict[str, dict[str, float]]]
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything the report says, in numbers."""

    date: str
    split: Split
    first: str
    networks: dict[str, Network]
    ceiling: Scores | None
    registration: dict[str, dict[str, dict[str, float]]]

    def training(self, name: str) -> tuple[float, float]:
        """Hours and epochs of the run behind a model."""
        summary = self.networks[name].model.spec.training
        batch = summary["recipe"]["optimisation"]["batch_size"]
        return summary["hours"], summary["steps"] * batch / len(self.split.train)

    def summary(self, name: str, group: str) -> Summary:
        return summarise(self.networks[name].scores[group].per_scan.tolist())

    def comparisons(self) -> list[dict[str, Any]]:
        """Wilcoxon's signed-rank test of each pair of networks, paired by scan."""
        rows = []
        for group in self.split.test:
            for a, b in itertools.combinations(self.networks, 2):
                x, y = (self.networks[n].scores[group].per_scan for n in (a, b))
                rows.append({"group": group, "a": a, "b": b, **_wilcoxon(x, y)})
        return rows

    def truth_means(self, group: str) -> dict[str, dict[str, float]]:
        """Labels' maker -> structure -> mean Dice against the independent segmentation."""
        makers = {"registration": self.registration}
        makers |= {name: network.truth for name, network in self.networks.items()}
        return {
            maker: {
                s.name: float(np.mean([scan[s.name] for scan in truth[group].values()]))
                for s in structures()
            }
            for maker, truth in makers.items()
        }

    def truth_against_registration(self, group: str) -> dict[str, dict[str, Any]]:
        """Network -> its mean over structures, scan by scan, against registration's."""
        base = _scan_means(self.registration[group])
        return {
            name: _wilcoxon(_scan_means(network.truth[group]), base)
            for name, network in self.networks.items()
        }

    def as_dict(self) -> dict[str, Any]:
        networks = {}
        for name, network in self.networks.items():
            hours, epochs = self.training(name)
            spec, finite = network.model.spec, network.distances[:, 1:]
            networks[name] = {
                "onnx_sha256": spec.onnx_sha256,
                "training_hours": hours,
                "training_epochs": round(epochs, 1),
                "groups": {g: s.as_dict() for g, s in network.scores.items()},
                "regions_missing": int(network.missing[:, 1:].sum()),
                "hd95_mm_mean": round(float(finite[np.isfinite(finite)].mean()), 3),
                "prediction_s": [round(s, 4) for s in network.seconds],
            }
        return {
            "format": FINDINGS_FORMAT,
            "date": self.date,
            "machine": machine(),
            "report_a": REPORT_A,
            "training_scans": len(self.split.train),
            "networks": networks,
            "noise_ceiling": self.ceiling.as_dict() if self.ceiling else None,
            "comparisons": self.comparisons(),
            "independent_truth": {
                group: {
                    "scans": len(self.registration[group]),
                    "dice": self.truth_means(group),
                    "against_registration": self.truth_against_registration(group),
                }
                for group in self.registration
            },
        }


def _scan_means(scans: Mapping[str, Mapping[str, float]]) -> NDArray[np.float64]:
    return np.array([np.mean(list(dice.values())) for dice in scans.values()])


def _wilcoxon(x: NDArray[np.float64], y: NDArray[np.float64]) -> dict[str, Any]:
    """Mean difference and two-sided p of paired scores; no p for one scan."""
    from scipy.stats import wilcoxon

    p = float(wilcoxon(x, y).pvalue) if len(x) > 1 and np.any(x != y) else None
    return {
        "scans": len(x),
        "difference": round(float(np.mean(x - y)), 4),
        "p": p,
        "p_text": "n/a" if p is None else f"{p:.2g}",
    }


def machine() -> str:
    """CPU and cores, in words."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {len(os.sched_getaffinity(0))} cores"
