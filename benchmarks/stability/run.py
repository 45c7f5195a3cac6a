"""Measure how much labels change when a scan is disturbed.

    python -m benchmarks.stability SCANS... --preprocessing stripped --models compact -o FILE.json

Each scan is labelled as it is and after every disturbance that leaves the brain as it was. The Dice
of the two label maps is taken on the disturbed scan's own grid, on which labels are made from the
network's first answer too, so that resampling labels costs nothing. What a disturbance cuts off is
not compared. Beside FILE.json lie FILE.md, a table, and FILE.png.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.runs import Entry, Run, begin_run
from benchmarks.stability.disturbances import CUTS, DISTURBANCES
from benchmarks.stability.figure import draw_stability
from neurobento.backends import open_backend
from neurobento.cohort.scans import find_scan_files
from neurobento.dice import class_dice
from neurobento.errors import NeuroBentoError
from neurobento.imaging.scan import Scan, read_scan
from neurobento.labels import aal116
from neurobento.parcellation.parcellator import Parcellation, Parcellator
from neurobento.registry import DEFAULT_MODEL, find_model

__all__ = ["main", "measure_scan", "stability_table"]

SEED = 0


def measure_scan(
    parcellator: Parcellator, scan: Scan, preprocessing: Any
) -> dict[str, NDArray[np.float64] | str]:
    """Return the Dice of every class for each disturbance, or the error that it led to."""
    before = parcellator.parcellate(scan, preprocessing)
    brain = _brain_of(before, scan)
    found: dict[str, NDArray[np.float64] | str] = {}
    for name, disturb in DISTURBANCES[preprocessing].items():
        disturbed = disturb(scan, brain, np.random.default_rng(SEED))
        try:
            after = parcellator.parcellate(disturbed, preprocessing)
        except NeuroBentoError as error:
            found[name] = type(error).__name__
            continue
        expected = before.answer.labels_on(disturbed.voxel_to_ras, disturbed.shape)
        # what was cut off has no label to compare
        kept = disturbed.array != 0 if name in CUTS else np.True_
        found[name] = class_dice(after.labels * kept, expected * kept)
    return found


def _brain_of(parcellation: Parcellation, scan: Scan) -> NDArray[np.bool_]:
    """Return the brain on the scan's grid: its mask, or what a stripped scan has."""
    prepared = parcellation.prepared
    if prepared.brain is not None:
        return prepared.brain.on_grid(scan.voxel_to_ras, scan.shape)
    if prepared.preprocessing == "stripped":
        return scan.array > 0
    from scipy.ndimage import binary_closing

    # white matter has no label
    return np.asarray(binary_closing(parcellation.labels > 0, iterations=8))


def _add(
    samples: dict[str, list[float]],
    regions: dict[str, list[NDArray[np.float64]]],
    found: Mapping[str, NDArray[np.float64] | str],
) -> None:
    for name, dice in found.items():
        if isinstance(dice, str):
            # an answer that does not come agrees with nothing
            samples.setdefault(name, []).append(0.0)
            continue
        samples.setdefault(name, []).append(float(np.nanmean(dice[1:])))
        regions.setdefault(name, []).append(dice)


def _worst_regions(regions: Mapping[str, Sequence[NDArray[np.float64]]]) -> dict[str, Any]:
    """Return, for each disturbance, the region with the lowest mean Dice, and that Dice."""
    worst = {}
    for name, scores in regions.items():
        means = np.nanmean(np.stack(scores), axis=0)[1:]
        index = int(np.nanargmin(means))
        worst[name] = [aal116().regions[index].name, round(float(means[index]), 4)]
    return worst


def stability_table(run: Run) -> str:
    """Return a table in Markdown: mean, lowest scan and worst region for each disturbance."""
    lines = []
    for model, entry in run.entries.items():
        lines += [
            f"## {model}, {run.scenario['preprocessing']}, {run.scenario['scans']} scans",
            "",
            "| disturbance | mean Dice | lowest scan | worst region |",
            "|---|---|---|---|",
        ]
        for name, dice in sorted(entry.samples.items(), key=lambda item: np.mean(item[1])):
            region = entry.facts["worst_regions"].get(name)
            worst = f"{region[0]} {region[1]:.3f}" if region else "n/a"
            lines.append(f"| {name} | {np.mean(dice):.3f} | {min(dice):.3f} | {worst} |")
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    from tqdm import tqdm

    parser = argparse.ArgumentParser(prog="python -m benchmarks.stability")
    parser.add_argument("scans", type=Path, nargs="+", help="files or folders")
    parser.add_argument("--preprocessing", choices=DISTURBANCES, required=True)
    parser.add_argument("--models", nargs="+", default=[DEFAULT_MODEL], metavar="NAME")
    parser.add_argument("--models-folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    paths = find_scan_files(args.scans)
    models = {name: find_model(name, args.models_folder) for name in args.models}
    scenario = {"preprocessing": args.preprocessing, "scans": len(paths), "seed": SEED}
    hashes = {name: model.spec.onnx_sha256 for name, model in models.items()}
    done = begin_run("stability", scenario, hashes, args.output)
    for name, model in models.items():
        parcellator = Parcellator(open_backend(model))
        samples: dict[str, list[float]] = {}
        regions: dict[str, list[NDArray[np.float64]]] = {}
        for path in tqdm(paths, desc=name, unit="scan"):
            _add(samples, regions, measure_scan(parcellator, read_scan(path), args.preprocessing))
            facts = {"model": name, "worst_regions": _worst_regions(regions)}
            done = dataclasses.replace(done, entries={**done.entries, name: Entry(facts, samples)})
            done.write(args.output)
    table = stability_table(done)
    args.output.with_suffix(".md").write_text(table)
    draw_stability(done, args.output.with_suffix(".png"))
    print(table)
    return 0
