"""How well a network repeats the labels it was taught, on scans it never saw.

    python -m training.evaluate RUN/best.pt --pairs PAIRS -o results/evaluation/compact \\
        [--second-labels PAIRS_OF_ANOTHER_SEED]

For every test group of the checkpoint's own recipe: Dice per scan as report A
defines it (mean over the labels present in either map), mean, SD and 95 %
interval. With --second-labels also the noise ceiling: Dice between two label
sets that registration made of the same scans with different seeds; no network
can be told apart from its labels above it.

Writes `evaluation.json`, `regions.csv` and `regions.png`, the box plot of the
five best and five worst regions of the first group.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from neurobento.command import run
from neurobento.dice import class_dice, summarise
from neurobento.errors import ConfigError
from neurobento.labels import CLASS_COUNT, aal116
from neurobento.networks.weights import load_network, read_values
from neurobento.spec import file_sha256
from training.dataset import Pair, find_split, load_pairs

__all__ = ["Scores", "draw_regions", "main", "noise_ceiling", "score"]

FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Dice of several scans.

    Attributes
    ----------
    names
        The scans.
    dice
        (scans, 117) float64; NaN where a label is in neither map.
    """

    names: tuple[str, ...]
    dice: NDArray[np.float64]

    @property
    def per_scan(self) -> NDArray[np.float64]:
        """(scans,) mean over the labels present in either map."""
        return np.asarray(np.nanmean(self.dice, axis=1))

    def as_dict(self) -> dict[str, Any]:
        """Summary and scans, for JSON; Dice rounded to 4 places."""
        summary = dataclasses.asdict(summarise(self.per_scan.tolist()))
        return {
            "summary": {k: _rounded(v) for k, v in summary.items()},
            "scans": {
                n: round(float(d), 4) for n, d in zip(self.names, self.per_scan, strict=True)
            },
            "regions_never_predicted": self.never_predicted(),
        }

    def never_predicted(self) -> list[str]:
        """Regions whose Dice is zero on every scan."""
        present = np.isfinite(self.dice).any(axis=0)
        found = np.nansum(self.dice, axis=0) > 0
        return [r.name for r in aal116() if present[r.class_index] and not found[r.class_index]]


def _rounded(value: float) -> float | None:
    """Four places; JSON has no NaN, and one scan has no spread."""
    return round(value, 4) if np.isfinite(value) else None


def score(network: nn.Module, pairs: Sequence[Pair], device: str = "cpu") -> Scores:
    """Dice of a network on pairs, computed in fp32."""
    rows = []
    with torch.inference_mode():
        for pair in tqdm(pairs, unit="scan"):
            labels = network.labels(pair.float_image()[None].to(device))[0].cpu().numpy()
            rows.append(class_dice(labels, pair.labels.numpy()))
    return Scores(tuple(pair.name for pair in pairs), np.stack(rows))


def noise_ceiling(first: Sequence[Pair], second: Sequence[Pair]) -> Scores:
    """Dice between two label sets of the same scans."""
    rows = [
        class_dice(a.labels.numpy(), b.labels.numpy()) for a, b in zip(first, second, strict=True)
    ]
    return Scores(tuple(pair.name for pair in first), np.stack(rows))


def write_regions(path: Path, groups: Mapping[str, Scores]) -> None:
    """`regions.csv`: Dice of every region, mean and SD over each group's scans."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        columns = [f"{name}_{what}" for name in groups for what in ("mean", "sd", "least")]
        writer.writerow(["class_index", "name", *columns])
        for index in range(CLASS_COUNT):
            name = aal116()[index].name if index else "Background"
            writer.writerow([index, name, *_region_cells(index, groups)])


def _region_cells(index: int, groups: Mapping[str, Scores]) -> list[str]:
    cells = []
    for scores in groups.values():
        values = scores.dice[:, index][np.isfinite(scores.dice[:, index])]
        if not len(values):
            cells += ["", "", ""]
            continue
        sd = f"{values.std(ddof=1):.4f}" if len(values) > 1 else ""
        cells += [f"{values.mean():.4f}", sd, f"{values.min():.4f}"]
    return cells


def draw_regions(path: Path, scores: Scores, title: str) -> None:
    """Box plots of the five regions with the best and the five with the worst median Dice."""
    from matplotlib.figure import Figure

    regions = list(aal116())
    present = np.flatnonzero(np.isfinite(scores.dice[:, 1:]).any(axis=0))
    medians = np.nanmedian(scores.dice[:, 1 + present], axis=0)
    order = present[np.argsort(medians)]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, chosen, name in zip(
        figure.subplots(1, 2, sharey=True),
        (order[::-1][:5], order[:5]),
        ("five best regions", "five worst regions"),
        strict=True,
    ):
        values = [scores.dice[:, i + 1][np.isfinite(scores.dice[:, i + 1])] for i in chosen]
        axes.boxplot(values, tick_labels=[regions[i].name for i in chosen])
        axes.tick_params(axis="x", rotation=20)
        axes.set(title=name, ylabel="Dice", ylim=(0, 1))
        axes.grid(axis="y", alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def _ceiling(pairs: Path, second: Path, names: Sequence[str]) -> Scores:
    again = [str(Path(name).name) for name in names]
    return noise_ceiling(load_pairs(pairs, names), load_pairs(second, again))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of training.label")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--second-labels", type=Path, help="the first group's scans labelled with another --seed"
    )
    args = parser.parse_args(argv)
    values = read_values(args.checkpoint)
    data = values["recipe"]["data"]
    split = find_split(args.pairs, data["train"], data["validation"], data["test"])
    if not split.test:
        raise ConfigError(
            subject=str(args.checkpoint),
            expected="a recipe with test scans",
            found="none",
            remedy="Name them under [data.test] before training.",
        )
    network = load_network(args.checkpoint)
    groups = {
        name: score(network, load_pairs(args.pairs, names)) for name, names in split.test.items()
    }
    first = next(iter(groups))
    if args.second_labels:
        names = split.test[first]
        groups["noise_ceiling"] = _ceiling(args.pairs, args.second_labels, names)
    args.output.mkdir(parents=True, exist_ok=True)
    results = {name: scores.as_dict() for name, scores in groups.items()}
    summary = {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "checkpoint_sha256": file_sha256(args.checkpoint),
        "network": values["recipe"]["network"],
        "training_scans": len(split.train),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "metric": "Dice per scan, mean over labels present in either map, background included",
        "summary": {name: result["summary"] for name, result in results.items()},
        "groups": results,
    }
    (args.output / "evaluation.json").write_text(json.dumps(summary, indent=1) + "\n")
    write_regions(args.output / "regions.csv", groups)
    draw_regions(args.output / "regions.png", groups[first], f"{summary['network']}, {first}")
    print(json.dumps(summary["summary"], indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.evaluate"))
