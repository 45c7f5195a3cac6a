"""Score models in the scans' own space, through the whole path from the file to the labels.

    python -m training.studies.native_scores SCANS... --preprocessing stripped \\
        --models compact regions --pairs PAIRS [--truth LABELS] -o FILE.json

PAIRS holds the same scans' labels by registration (`training.parcellation.label`, whichever
version); they are restored on each scan's grid, as a model's are. LABELS holds independent
segmentations (see `training.studies.independent_truth`). A scan that has neither is left out. The
file holds every scan's Dice, means with 95 % intervals, and those of the differences from the first
model. With both, the labels by registration are scored against the independent ones too. Scans that
are in the file already are not scored again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from neurobento.backends import open_backend
from neurobento.cohort.scans import find_scan_files
from neurobento.command import run
from neurobento.dice import mean_dice, summarise
from neurobento.errors import ConfigError
from neurobento.files import write_atomically
from neurobento.imaging.geometry import Grid
from neurobento.imaging.scan import Scan, read_scan, scan_name
from neurobento.parcellation.parcellator import Parcellator
from neurobento.preprocessing import PREPROCESSINGS
from neurobento.registry import Model, find_model
from training.studies.independent_truth import Truth, find_truth, truth_dice

__all__ = ["main", "registered_labels", "score_scan"]

REGISTRATION, STRUCTURES = "registration", "structures"
"""Keys of a scan's scores: Dice with labels by registration, and mean Dice of structures."""


def registered_labels(pairs: Path, scan: Scan, name: str) -> NDArray[np.uint8] | None:
    """Return a scan's labels by registration on its own grid, None if PAIRS has none of it."""
    found = sorted(pairs.rglob(f"{name}_labels.nii.gz"))
    if not found:
        return None
    image = nib.load(found[0])
    grid = Grid(scan.shape, scan.voxel_to_ras, np.asarray(image.affine, np.float64))
    return grid.restore(np.asarray(image.dataobj, np.uint8))


def score_scan(
    parcellator: Parcellator, path: Path, preprocessing: Any, pairs: Path | None, truth: Path | None
) -> dict[str, float]:
    """Return a scan's scores; empty if there is nothing to compare it with."""
    scan, name = read_scan(path), scan_name(path)
    registered = registered_labels(pairs, scan, name) if pairs else None
    independent = find_truth(truth, name) if truth else None
    if registered is None and independent is None:
        return {}
    labels = parcellator.parcellate(scan, preprocessing).labels
    scores = {}
    if registered is not None:
        scores[REGISTRATION] = round(mean_dice(labels, registered), 4)
    if independent is not None:
        scores[STRUCTURES] = _structures(independent, labels, scan)
    return scores


def score_registration(path: Path, pairs: Path, truth: Path) -> dict[str, float]:
    """Return how well a scan's labels by registration fit the independent segmentation."""
    scan, name = read_scan(path), scan_name(path)
    registered, independent = registered_labels(pairs, scan, name), find_truth(truth, name)
    if registered is None or independent is None:
        return {}
    return {STRUCTURES: _structures(independent, registered, scan)}


def _structures(truth: Truth, labels: NDArray[np.uint8], scan: Scan) -> float:
    dice = truth_dice(truth, labels, scan.voxel_to_ras)
    return round(float(np.mean(list(dice.values()))), 4)


def _summaries(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Return means with intervals, and those of the differences from the first model."""
    first, *_ = scores
    summaries: dict[str, Any] = {}
    for model, scans in scores.items():
        summaries[model] = {}
        for kind in (REGISTRATION, STRUCTURES):
            values = {name: each[kind] for name, each in scans.items() if kind in each}
            if not values:
                continue
            summaries[model][kind] = _rounded(list(values.values()))
            both = [name for name in values if kind in scores[first].get(name, {})]
            if model != first and both:
                differences = [values[name] - scores[first][name][kind] for name in both]
                summaries[model][f"{kind}_minus_{first}"] = _rounded(differences)
    return summaries


def _rounded(values: Sequence[float]) -> dict[str, float | None]:
    summary = dataclasses.asdict(summarise(values))
    summary["least"] = min(values)
    return {k: round(v, 4) if np.isfinite(v) else None for k, v in summary.items()}


def _earlier_scores(path: Path, models: Mapping[str, Model], preprocessing: str) -> dict[str, Any]:
    """Return what an interrupted command left for the same models; ConfigError for others."""
    if not path.is_file():
        return {}
    document = json.loads(path.read_text())
    hashes = {name: model.spec.onnx_sha256 for name, model in models.items()}
    stale = [n for n, sha in document["models"].items() if hashes.get(n, sha) != sha]
    if stale or document["preprocessing"] != preprocessing:
        raise ConfigError(
            subject=str(path),
            expected=f"scores of these models with the preprocessing {preprocessing}",
            found=f"another {' '.join(stale) or 'preprocessing'}",
            remedy="Delete it, or name another file.",
        )
    scores: dict[str, Any] = document["scans"]
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    from tqdm import tqdm

    parser = argparse.ArgumentParser(prog="python -m training.studies.native_scores")
    parser.add_argument("scans", type=Path, nargs="+", help="files or folders")
    parser.add_argument("--preprocessing", choices=PREPROCESSINGS, required=True)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--models-folder", type=Path)
    parser.add_argument("--pairs", type=Path, help="folder with labels by registration")
    parser.add_argument("--truth", type=Path, help="folder of independent segmentations")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    models = {name: find_model(name, args.models_folder) for name in args.models}
    scorers: dict[str, Callable[[Path], dict[str, float]]] = {}
    for name, model in models.items():
        parcellator = Parcellator(open_backend(model))
        scorers[name] = functools.partial(
            score_scan,
            parcellator,
            preprocessing=args.preprocessing,
            pairs=args.pairs,
            truth=args.truth,
        )
    if args.pairs and args.truth:
        scorers[REGISTRATION] = functools.partial(
            score_registration, pairs=args.pairs, truth=args.truth
        )
    scores = {name: {} for name in scorers} | _earlier_scores(
        args.output, models, args.preprocessing
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for name, scorer in scorers.items():
        for path in tqdm(find_scan_files(args.scans), desc=name, unit="scan"):
            if scan_name(path) in scores[name]:
                continue
            if found := scorer(path):
                scores[name][scan_name(path)] = found
                _write(args.output, models, args.preprocessing, scores)
    print(json.dumps(_summaries(scores), indent=1))
    return 0


def _write(
    path: Path, models: Mapping[str, Model], preprocessing: str, scores: Mapping[str, Any]
) -> None:
    document = {
        "models": {name: model.spec.onnx_sha256 for name, model in models.items()},
        "preprocessing": preprocessing,
        "summary": _summaries(scores),
        "scans": scores,
    }
    write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())


if __name__ == "__main__":
    raise SystemExit(run(main, "training.studies.native_scores"))
