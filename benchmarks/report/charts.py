"""Figures of the benchmark report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report.comparison import Machine, timings
from benchmarks.report.inference import stage_means
from benchmarks.runs import Run, summary

__all__ = ["draw_latency", "draw_load", "draw_stages"]

DPI = 150
PERCENTILES = ("p50", "p95", "p99")
SMALL_SHARE = 0.01
"""Stages that never exceed this share of a scan's time are drawn together."""


def draw_latency(machine: Machine, path: Path) -> None:
    """Draw a bar per candidate: the median of the network alone, with a line up to p95."""
    singles = [timing for timing in timings(machine) if timing.batch == 1][::-1]
    models = list(dict.fromkeys(timing.model for timing in singles))
    figure, axes = _figure(10, 1.2 + 0.32 * len(singles))
    for row, timing in enumerate(singles):
        median = timing.seconds["p50"]
        axes.barh(row, median, color=f"C{models.index(timing.model)}")
        axes.plot([median, max(median, timing.seconds["p95"])], [row, row], color="black")
        axes.text(timing.seconds["p95"] * 1.05, row, f"{median:.3f}", va="center", fontsize=8)
    axes.set_yticks(range(len(singles)), [timing.candidate for timing in singles])
    axes.set(xscale="log", xlabel="seconds a scan, network alone", title=machine.name)
    axes.margins(x=0.12)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=DPI)


def draw_stages(run: Run, path: Path) -> None:
    """Draw a stacked bar per candidate: the mean seconds of each stage, end to end."""
    from matplotlib import colormaps

    columns = {name: stage_means(entry) for name, entry in run.entries.items() if entry.samples}
    shown = _large_stages(list(columns.values()))
    figure, axes = _figure(10, 1.8 + 0.4 * len(columns))
    axes.set_prop_cycle(color=colormaps["tab20"](range(20)))
    left = np.zeros(len(columns))
    for stage in [*shown, "the rest"]:
        seconds = np.array([_seconds(means, stage, shown) for means in columns.values()])
        axes.barh(range(len(columns)), seconds, left=left, label=stage.replace("_", " "))
        left += seconds
    axes.set_yticks(range(len(columns)), list(columns))
    axes.invert_yaxis()
    axes.set(xlabel="seconds a scan, end to end")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=DPI)


def draw_load(machine: Machine, path: Path) -> None:
    """Draw latency percentiles over the request rate, one panel per service."""
    from matplotlib.figure import Figure

    runs = machine.runs_of("load")
    figure = Figure(figsize=(4.5 * len(runs) + 1, 4), layout="constrained")
    panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axes, run in zip(panels, runs, strict=True):
        answered = [entry for entry in run.entries.values() if "ok_s" in entry.samples]
        rates = [entry.facts["rate_per_s"] for entry in answered]
        for name in PERCENTILES:
            values = [summary(entry.samples["ok_s"])[name] for entry in answered]
            axes.plot(rates, values, "o-", label=name)
        axes.set(xlabel="requests a second", yscale="log")
        axes.set_title(f"{run.scenario['service']}, {run.scenario['protocol']}", fontsize=10)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("seconds from when a request was due")
    panels[0].legend()
    figure.savefig(path, dpi=DPI)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _large_stages(columns: list[dict[str, float]]) -> list[str]:
    stages = dict.fromkeys(stage for means in columns for stage in means)
    return [
        stage
        for stage in stages
        if any(means.get(stage, 0.0) > SMALL_SHARE * sum(means.values()) for means in columns)
    ]


def _seconds(means: dict[str, float], stage: str, shown: list[str]) -> float:
    if stage in shown:
        return means.get(stage, 0.0)
    return sum(value for name, value in means.items() if name not in shown)
