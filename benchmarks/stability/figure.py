"""Draw how much labels change with each disturbance."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.runs import Run

__all__ = ["draw_stability"]


def draw_stability(run: Run, path: Path) -> None:
    """Draw the mean Dice for each disturbance and model, with a line from the lowest scan."""
    from matplotlib.figure import Figure

    names = sorted({name for entry in run.entries.values() for name in entry.samples})
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for number, (model, entry) in enumerate(run.entries.items()):
        rows = np.arange(len(names)) + 0.2 * (number - (len(run.entries) - 1) / 2)
        dice = [entry.samples.get(name, [np.nan]) for name in names]
        axes.hlines(rows, [min(d) for d in dice], [max(d) for d in dice], color=f"C{number}")
        axes.plot([np.mean(d) for d in dice], rows, "o", color=f"C{number}", label=model)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="Dice against the labels of the scan as it was", xlim=(None, 1))
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
