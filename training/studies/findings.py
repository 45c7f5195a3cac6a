"""The numbers of a comparison of networks."""

from __future__ import annotations

import itertools
import os
import platform
import tomllib
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

REPORT_A: dict[str, dict[str, Any]] = tomllib.loads(
    (Path(__file__).resolve().parents[1] / "data/report_a.toml").read_text()
)
"""Preset -> report A's figures."""


@dataclass(frozen=True, eq=False)
class Network:
    """One model and the scores of its predictions."""

    model: Model
    # test group -> Dice
    scores: dict[str, Scores]
    # (scans, 117) on the first group: HD95 in mm, and regions of the reference not predicted
    distances: NDArray[np.float64]
    missing: NDArray[np.bool_]
    # test group -> scan -> structure -> Dice against the independent segmentation
    truth: dict[str, dict[str, dict[str, float]]]
    # of each prediction on the first group
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Findings:
    """All numbers of the report."""

    date: str
    split: Split
    first: str
    networks: dict[str, Network]
    ceiling: Scores | None
    registration: dict[str, dict[str, dict[str, float]]]

    def training(self, name: str) -> tuple[float, float]:
        """Return hours and epochs of the run behind a model."""
        summary = self.networks[name].model.spec.training
        batch = summary["recipe"]["optimisation"]["batch_size"]
        return summary["hours"], summary["steps"] * batch / len(self.split.train)

    def summary(self, name: str, group: str) -> Summary:
        """Return mean, SD and interval of a network's Dice on a group."""
        return summarise(self.networks[name].scores[group].per_scan.tolist())

    def comparisons(self) -> list[dict[str, Any]]:
        """Test each pair of networks by Wilcoxon's signed-rank test, paired by scan."""
        rows = []
        for group in self.split.test:
            for a, b in itertools.combinations(self.networks, 2):
                x, y = (self.networks[n].scores[group].per_scan for n in (a, b))
                rows.append({"group": group, "a": a, "b": b, **_wilcoxon(x, y)})
        return rows

    def truth_means(self, group: str) -> dict[str, dict[str, float]]:
        """Return source of labels -> structure -> mean Dice against independent segmentations."""
        sources = {"registration": self.registration}
        sources |= {name: network.truth for name, network in self.networks.items()}
        return {
            source: {
                s.name: float(np.mean([scan[s.name] for scan in truth[group].values()]))
                for s in structures()
            }
            for source, truth in sources.items()
        }

    def truth_against_registration(self, group: str) -> dict[str, dict[str, Any]]:
        """Compare each network's mean over structures with registration's, paired by scan."""
        base = _scan_means(self.registration[group])
        return {
            name: _wilcoxon(_scan_means(network.truth[group]), base)
            for name, network in self.networks.items()
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values for JSON."""
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
    """Return mean difference and two-sided p of paired scores; one scan has no p."""
    from scipy.stats import wilcoxon

    p = float(wilcoxon(x, y).pvalue) if len(x) > 1 and np.any(x != y) else None
    return {
        "scans": len(x),
        "difference": round(float(np.mean(x - y)), 4),
        "p": p,
        "p_text": "n/a" if p is None else f"{p:.2g}",
    }


def machine() -> str:
    """Describe CPU and cores in words."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {len(os.sched_getaffinity(0))} cores"
