"""Score how well a network reproduces labels on scans it never saw.

    python -m training.parcellation.evaluate RUN/best.pt --pairs PAIRS \\
        -o results/evaluation/compact [--second-labels PAIRS_OF_ANOTHER_SEED]

For every test group of the checkpoint's recipe: report A's Dice per scan, mean, SD and 95 %
interval. With --second-labels also the noise ceiling: Dice between two registrations of the same
scans. Writes `evaluation.json`, `regions.csv` and `regions.png`, the first group's box plot.

    python -m training.parcellation.evaluate --report models/compact models/unet \\
        --pairs PAIRS -o results/evaluation [--truth LABELS] [--second-labels ...]

compares exported models with each other, with report A's figures and with independent
segmentations: `training.studies.network_report`.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from neurobento.labels import CLASS_COUNT, aal116
from neurobento.networks.weights import load_network, read_values
from training.parcellation.dataset import Pair, find_split, load_pairs, open_pairs
from training.parcellation.scores import Scores, score_labels

__all__ = ["draw_regions", "main", "noise_ceiling", "score"]

EVALUATION_FORMAT = 1


def score(network: Any, pairs: Sequence[Pair], device: str = "cpu") -> Scores:
    """Score a network on pairs by Dice, computed in fp32."""
    with torch.inference_mode():
        predicted = [
            network.labels(pair.float_image()[None].to(device))[0].cpu().numpy()
            for pair in tqdm(pairs, unit="scan")
        ]
    return score_labels([p.name for p in pairs], predicted, [p.labels.numpy() for p in pairs])


def noise_ceiling(first: Sequence[Pair], second: Sequence[Pair]) -> Scores:
    """Score two label sets of the same scans against each other by Dice."""
    names = [pair.name for pair in first]
    return score_labels(names, *([p.labels.numpy() for p in pairs] for pairs in (first, second)))


def write_regions(path: Path, groups: Mapping[str, Scores]) -> None:
    """Write `regions.csv`: Dice of every region, mean, SD and least over each group's scans."""
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
    """Draw box plots of the five regions with the best and the worst median Dice."""
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
    return noise_ceiling(
        load_pairs(open_pairs(pairs), names), load_pairs(open_pairs(second), again)
    )


def evaluate(checkpoint: Path, pairs: Path, output: Path, second_labels: Path | None) -> None:
    """Score one checkpoint on its recipe's test scans and write the files."""
    values = read_values(checkpoint)
    data, source = values["recipe"]["data"], open_pairs(pairs)
    split = find_split(source, data["train"], data["validation"], data["test"])
    if not split.test:
        raise ConfigError(
            subject=str(checkpoint),
            expected="a recipe with test scans",
            found="none",
            remedy="Name them under [data.test] before training.",
        )
    network = load_network(checkpoint)
    groups = {name: score(network, load_pairs(source, names)) for name, names in split.test.items()}
    first = next(iter(groups))
    if second_labels:
        groups["noise_ceiling"] = _ceiling(pairs, second_labels, split.test[first])
    output.mkdir(parents=True, exist_ok=True)
    results = {name: scores.as_dict() for name, scores in groups.items()}
    summary = {
        "format": EVALUATION_FORMAT,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "checkpoint_sha256": file_sha256(checkpoint),
        "network": values["recipe"]["network"],
        "training_scans": len(split.train),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "metric": "Dice per scan, mean over labels present in either map, background included",
        "summary": {name: result["summary"] for name, result in results.items()},
        "groups": results,
    }
    (output / "evaluation.json").write_text(json.dumps(summary, indent=1) + "\n")
    write_regions(output / "regions.csv", groups)
    draw_regions(output / "regions.png", groups[first], f"{summary['network']}, {first}")
    print(json.dumps(summary["summary"], indent=1))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.parcellation.evaluate")
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--report", type=Path, nargs="+", metavar="MODEL", help="models/NAME ...")
    parser.add_argument(
        "--pairs", type=Path, required=True, help="folder of training.parcellation.label"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--second-labels", type=Path, help="the first group's scans labelled with another --seed"
    )
    parser.add_argument("--truth", type=Path, help="with --report: independent segmentations")
    parser.add_argument("--split", type=Path, help="with --report: TOML that names the test scans")
    parser.add_argument("--groups", nargs="+", default=[], help="with --report: take these")
    parser.add_argument("--cache", type=Path, help="with --report: keep predictions here")
    args = parser.parse_args(argv)
    if (args.checkpoint is None) == (args.report is None):
        parser.error("give either a checkpoint or --report with models")
    if args.checkpoint and (args.truth or args.cache or args.split or args.groups):
        parser.error("--truth, --split, --groups and --cache go with --report")
    if args.checkpoint:
        evaluate(args.checkpoint, args.pairs, args.output, args.second_labels)
    else:
        from training.studies.network_report import write_report

        print(
            write_report(
                args.report,
                args.pairs,
                args.output,
                second_labels=args.second_labels,
                truth=args.truth,
                cache=args.cache,
                split_file=args.split,
                groups=args.groups,
            )
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.parcellation.evaluate"))
