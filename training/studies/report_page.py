"""A comparison of networks as Markdown in report A's form, box plots and CSV."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.dice import summarise
from neurobento.labels import aal116
from training.parcellation.recipe import Optimisation
from training.studies.findings import REPORT_A, Findings, Network, machine
from training.studies.independent_truth import structures

__all__ = ["draw_figures", "markdown", "write_regions"]

FIGURE_REGIONS = 5


def write_regions(findings: Findings, path: Path) -> None:
    """Write each region's Dice (mean, SD), HD95 (mean, mm) and scans it is missing in."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        wanted = ("dice_mean", "dice_sd", "hd95_mm_mean", "missing_scans")
        columns = [f"{name}_{what}" for name in findings.networks for what in wanted]
        ceiling = ["noise_ceiling_dice_mean"] if findings.ceiling else []
        writer.writerow(["class_index", "name", *columns, *ceiling])
        for region in aal116():
            i = region.class_index
            cells = [c for n in findings.networks.values() for c in _cells(findings, n, i)]
            if findings.ceiling:
                cells.append(_number(findings.ceiling.dice[:, i]))
            writer.writerow([i, region.name, *cells])


def _cells(findings: Findings, network: Network, index: int) -> list[str]:
    dice = network.scores[findings.first].dice[:, index]
    spread = f"{np.nanstd(dice, ddof=1):.4f}" if np.isfinite(dice).sum() > 1 else ""
    missing = str(int(network.missing[:, index].sum()))
    return [_number(dice), spread, _number(network.distances[:, index]), missing]


def draw_figures(findings: Findings, folder: Path, date: str) -> None:
    """Draw figures 4.3 and 4.4: box plots of the best and the worst regions, all networks."""
    stacked = np.concatenate(
        [n.scores[findings.first].dice[:, 1:] for n in findings.networks.values()]
    )
    present = np.flatnonzero(np.isfinite(stacked).any(axis=0))
    medians = np.nanmedian(stacked[:, present], axis=0)
    order = present[np.argsort(medians, kind="stable")] + 1
    chosen = {"best": order[::-1][:FIGURE_REGIONS], "worst": order[:FIGURE_REGIONS]}
    for kind, indices in chosen.items():
        _draw_regions(findings, folder / f"{date}_{kind}_regions.png", indices, kind)


def _draw_regions(findings: Findings, path: Path, indices: NDArray[np.int64], kind: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(findings.networks)
    for k, (name, network) in enumerate(findings.networks.items()):
        values = [
            d[np.isfinite(d)] for d in (network.scores[findings.first].dice[:, i] for i in indices)
        ]
        places = np.arange(len(indices)) + (k - (len(findings.networks) - 1) / 2) * width
        boxes = axes.boxplot(values, positions=places, widths=width * 0.85, patch_artist=True)
        for box in boxes["boxes"]:
            box.set_facecolor(f"C{k}")
        for median in boxes["medians"]:
            median.set_color("black")
        axes.plot([], [], "s", color=f"C{k}", label=name)
    axes.set_xticks(range(len(indices)), [aal116()[int(i)].name for i in indices])
    axes.set(
        ylabel="Dice", ylim=(-0.02, 1), title=f"{FIGURE_REGIONS} {kind} regions, {findings.first}"
    )
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def markdown(findings: Findings) -> str:
    """Format the report as Markdown."""
    parts = [
        f"# The networks compared, {findings.date}",
        "Made by `python -m training.parcellation.evaluate --report`; every number is in "
        f"[{findings.date}.json]({findings.date}.json). Machine: {machine()}.",
        f"Test scans: {', '.join(f'{g} ({len(n)})' for g, n in findings.split.test.items())}. "
        f"Training scans: {len(findings.split.train)}. The reference labels are the atlas's, "
        "registered to each scan (bronze standard). Report A had 1,200 scans for training, 200 "
        "for testing and an RTX 4090.",
        *_report_tables(findings),
        *_region_parts(findings),
        *_group_parts(findings),
        *_truth_parts(findings),
    ]
    return "\n\n".join(parts) + "\n"


def _report_tables(findings: Findings) -> list[str]:
    time_rows, dice_rows, interval_rows, speed_rows = [], [], [], []
    for name, network in findings.networks.items():
        own, paper = findings.summary(name, findings.first), REPORT_A.get(name)
        hours, epochs = findings.training(name)
        # recipes from before a choice existed made the one that is now its default
        optimisation = {
            **dataclasses.asdict(Optimisation()),
            **network.model.spec.training["recipe"]["optimisation"],
        }
        seconds = summarise(network.seconds)
        time_rows.append([name, *_paper(paper, "hours", "epochs"), f"{hours:.2f}", f"{epochs:.0f}"])
        paper_dice = f"{paper['dice']:.2f} ± {paper['spread']:.2f}" if paper else ""
        spread = f"{100 * own.mean:.2f} ± {100 * own.sd:.2f}"
        recipe = f"{optimisation['loss']}, {optimisation['optimiser']}"
        dice_rows.append([name, paper_dice, recipe, spread])
        interval = f"[{100 * own.low:.2f}, {100 * own.high:.2f}]"
        paper_interval = "[{:.2f}, {:.2f}]".format(*paper["interval"]) if paper else ""
        interval_rows.append([name, paper_interval, interval])
        paper_speed = "{:.3f} ± {:.3f}".format(*paper["prediction_s"]) if paper else ""
        speed_rows.append([name, paper_speed, f"{seconds.mean:.3f} ± {seconds.sd:.3f}"])
    return [
        "## Training (table 3.1)\n\n"
        + _table(
            ["network", "report A, h", "report A, epochs", "ours, h", "ours, epochs"], time_rows
        )
        + "\n\nOurs are those of the last run; weights that it started from took more.",
        f"## Dice on {findings.first}, % (table 4.1)\n\n"
        + _table(["network", "report A", "our loss, optimiser", "ours, mean ± SD"], dice_rows)
        + "\n\nThe report's ± is a fraction: its intervals imply standard deviations of 8.9 "
        "and 7.9 points." + _noise_ceiling(findings),
        "## 95 % intervals, % (table 4.2)\n\n"
        + _table(["network", "report A", "ours"], interval_rows),
        "## Prediction time, s (table 4.3)\n\n"
        + _table(["network", "report A, RTX 4090", "ours, this machine"], speed_rows),
    ]


def _noise_ceiling(findings: Findings) -> str:
    if not findings.ceiling:
        return ""
    ceiling = summarise(findings.ceiling.per_scan.tolist())
    return (
        "\n\nNoise ceiling, registration against itself with another seed: "
        f"{100 * ceiling.mean:.2f} ± {100 * ceiling.sd:.2f} %."
    )


def _region_parts(findings: Findings) -> list[str]:
    rows = []
    for name, network in findings.networks.items():
        values = network.distances[:, 1:]
        finite = values[np.isfinite(values)]
        never = network.scores[findings.first].never_predicted()
        rows.append(
            [
                name,
                str(int(network.missing[:, 1:].sum())),
                str(len(never)),
                f"{finite.mean():.2f}",
                f"{np.median(finite):.2f}",
            ]
        )
    return [
        f"## Regions on {findings.first} (figures 4.3 and 4.4)\n\n"
        f"![Five best regions]({findings.date}_best_regions.png)\n\n"
        f"![Five worst regions]({findings.date}_worst_regions.png)\n\n"
        f"Every region's Dice and HD95: [{findings.date}_regions.csv]"
        f"({findings.date}_regions.csv).\n\n"
        + _table(
            [
                "network",
                "regions missing, all scans together",
                "regions never right",
                "HD95 mean, mm",
                "HD95 median, mm",
            ],
            rows,
        )
    ]


def _group_parts(findings: Findings) -> list[str]:
    rows = []
    for group, names in findings.split.test.items():
        cells = []
        for name in findings.networks:
            s = findings.summary(name, group)
            cells.append(f"{s.mean:.4f}" + (f" ± {s.sd:.4f}" if len(names) > 1 else ""))
        rows.append([group, str(len(names)), *cells])
    tests = [
        [
            c["group"],
            f"{c['a']} - {c['b']}",
            str(c["scans"]),
            f"{c['difference']:+.4f}",
            c["p_text"],
        ]
        for c in findings.comparisons()
        if c["scans"] > 1
    ]
    return [
        "## Every test group, mean Dice ± SD\n\n"
        + _table(["group", "scans", *findings.networks], rows),
        "## Differences between networks (Wilcoxon's signed-rank test, paired by scan)\n\n"
        + _table(["group", "networks", "scans", "mean difference of Dice", "p"], tests),
    ]


def _truth_parts(findings: Findings) -> list[str]:
    parts = []
    for group, scans in findings.registration.items():
        means = findings.truth_means(group)
        rows = [[s.name, *(f"{m[s.name]:.3f}" for m in means.values())] for s in structures()]
        averages = [f"{np.mean(list(m.values())):.3f}" for m in means.values()]
        rows.append(["mean", *averages])
        parts.append(
            f"## Independent truth: {group}, {len(scans)} scans, mean Dice\n\n"
            + _table(["structure", *means], rows)
            + "\n\n"
            + " ".join(
                _verdict(name, difference)
                for name, difference in findings.truth_against_registration(group).items()
            )
        )
    return parts


def _verdict(name: str, found: Mapping[str, Any]) -> str:
    if not found["difference"]:
        return f"`{name}` is as far from the independent truth as the registration that taught it."
    side = "closer to" if found["difference"] > 0 else "farther from"
    chance = "" if found["p"] is not None and found["p"] < 0.05 else ": it may be chance"
    return (
        f"`{name}` is {side} the independent truth than the registration that taught it, by "
        f"{abs(found['difference']):.3f} of mean Dice (p = {found['p_text']}){chance}."
    )


def _number(values: NDArray[np.float64]) -> str:
    """Format the mean of the finite values, or nothing."""
    finite = values[np.isfinite(values)]
    return f"{finite.mean():.4f}" if len(finite) else ""


def _paper(paper: Mapping[str, Any] | None, *keys: str) -> list[str]:
    return [str(paper[key]) if paper else "" for key in keys]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
