"""The curves of a run that is judged by Dice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.loop.log import Row

__all__ = ["draw_dice"]


def draw_dice(history: Sequence[Row], path: Path) -> None:
    """Draw the training loss and the validation Dice against the step."""
    from matplotlib.figure import Figure

    steps = [row["step"] for row in history]
    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.add_subplot()
    left.plot(steps, [row["loss"] for row in history], color="tab:blue")
    left.set(xlabel="step", ylabel="training loss")
    left.yaxis.label.set_color("tab:blue")
    right = left.twinx()
    right.plot(steps, [row["validation_dice"] for row in history], color="tab:orange")
    right.set(ylabel="validation Dice", ylim=(0, 1))
    right.yaxis.label.set_color("tab:orange")
    figure.savefig(path, dpi=150)
