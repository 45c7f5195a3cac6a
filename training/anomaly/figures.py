"""Figures of networks for anomalies: learning curves, examples, scores and failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurobento.networks.anomaly import AnomalyNetwork

__all__ = ["draw_curves", "draw_examples", "draw_failures", "draw_scores"]

SHOWN = 8
"""Pictures in a row."""

HEALTHY, TUMOUR = "tab:blue", "tab:red"


def draw_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw report B's figure 2: the losses against the epoch."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(epochs, [row["loss"] for row in history], label="training")
    axes.plot(epochs, [row["validation_loss"] for row in history], label="validation")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.legend()
    figure.savefig(path, dpi=150)


def draw_examples(network: AnomalyNetwork, images: NDArray[np.float32], path: Path) -> None:
    """Draw report B's figure 3: slices, the network's output and its error maps."""
    from matplotlib.figure import Figure

    with torch.inference_mode():
        batch = torch.from_numpy(images)[:, None]
        made = network(batch).squeeze(1)
        errors = network.error_map(batch)
    if network.gives_logits:
        made = made.sigmoid()
    figure = Figure(figsize=(1.6 * len(images), 4.8), layout="constrained")
    rows = figure.subplots(3, len(images), squeeze=False)
    parts = (
        (batch[:, 0], "gray", 1.0),
        (made, "gray", 1.0),
        (errors, "inferno", float(errors.max())),
    )
    for row, (values, colours, high) in zip(rows, parts, strict=True):
        for axes, value in zip(row, values, strict=True):
            axes.imshow(value.numpy(), cmap=colours, vmin=0, vmax=high)
            axes.set_axis_off()
    figure.savefig(path, dpi=120)


def draw_scores(methods: Mapping[str, Any], path: Path) -> None:
    """Draw each method's scores of healthy slices and those with a tumour, and its ROC curve."""
    from matplotlib.figure import Figure
    from sklearn.metrics import auc, roc_curve

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    strips, curves = figure.subplots(1, 2, width_ratios=(1.3, 1))
    random = np.random.default_rng(0)
    for row, (name, found) in enumerate(methods.items()):
        for scores, colour, up in (
            (found["healthy"], HEALTHY, 0.15),
            (found["tumour"], TUMOUR, -0.15),
        ):
            places = row + up + random.uniform(-0.1, 0.1, len(scores))
            strips.scatter(scores, places, s=6, color=colour, alpha=0.5, linewidths=0)
        truth = np.repeat([0, 1], [len(found["healthy"]), len(found["tumour"])])
        wrong, right, _ = roc_curve(truth, [*found["healthy"], *found["tumour"]])
        curves.plot(wrong, right, label=f"{name} ({auc(wrong, right):.2f})")
    strips.set_yticks(range(len(methods)), list(methods))
    strips.invert_yaxis()
    strips.set_xscale("symlog", linthresh=3)
    strips.set(
        xlabel="score, in standard deviations of healthy validation slices",
        title="healthy (blue) and with a tumour (red)",
    )
    curves.plot((0, 1), (0, 1), color="grey", linewidth=0.5)
    curves.set(
        xlabel="false positives",
        ylabel="tumours found",
        title="ROC, first repeat (area)",
        aspect="equal",
    )
    curves.legend(fontsize="small", loc="lower right")
    figure.savefig(path, dpi=150)


def draw_failures(
    images: NDArray[np.float32],
    maps: NDArray[np.float32],
    scores: NDArray[np.float64],
    tumour: NDArray[np.bool_],
    path: Path,
) -> None:
    """Draw the tumours that a method scores lowest and the healthy slices it scores highest."""
    from matplotlib.figure import Figure

    order = np.argsort(scores)
    overlooked = order[tumour[order]][:SHOWN]
    alarms = order[~tumour[order]][::-1][:SHOWN]
    figure = Figure(figsize=(1.6 * SHOWN, 7.4), layout="constrained")
    rows = figure.subplots(4, SHOWN, squeeze=False)
    high = float(np.quantile(maps, 0.999))
    titles = ("overlooked", "", "false alarm", "")
    kinds = (overlooked, overlooked, alarms, alarms)
    for i, (row, places, title) in enumerate(zip(rows, kinds, titles, strict=True)):
        for axes, place in zip(row, places, strict=False):
            if i % 2:
                axes.imshow(maps[place], cmap="inferno", vmin=0, vmax=high)
            else:
                axes.imshow(images[place], cmap="gray", vmin=0, vmax=1)
                axes.set_title(f"{title}, {scores[place]:.1f}", fontsize="small")
        for axes in row:
            axes.set_axis_off()
    figure.savefig(path, dpi=100)
