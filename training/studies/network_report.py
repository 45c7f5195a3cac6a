"""Report A's tables and figures with our networks beside its own.

`python -m training.parcellation.evaluate --report` writes into its output folder

    DATE.md                the tables, the report's form, its figures beside ours
    DATE.json              every number behind them
    DATE_regions.csv       Dice, HD95 and missing predictions of every region
    DATE_best_regions.png  figure 4.3
    DATE_worst_regions.png figure 4.4

The networks are the exported models, run as the service runs them. With a cache
folder predictions are kept, and an interrupted report continues where it stopped.
"""

from __future__ import annotations

import datetime
import json
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from neurobento.backends import open_backend
from neurobento.errors import ConfigError
from neurobento.imaging.geometry import voxel_sizes_mm
from neurobento.labels import CLASS_COUNT
from neurobento.registry import Model, open_model
from training.parcellation.dataset import (
    Pair,
    PairSource,
    Split,
    find_split,
    load_pairs,
    name_matches,
    open_pairs,
)
from training.parcellation.scores import Scores, hd95, score_labels
from training.studies.findings import Findings, Network
from training.studies.independent_truth import find_truth, truth_dice
from training.studies.report_page import draw_figures, markdown, write_regions

__all__ = ["write_report"]


def write_report(
    models: Sequence[Path],
    pairs: Path,
    output: Path,
    *,
    second_labels: Path | None = None,
    truth: Path | None = None,
    cache: Path | None = None,
    split_file: Path | None = None,
    groups: Sequence[str] = (),
) -> str:
    """Compare exported models, write the report and return its Markdown.

    `second_labels` give the noise ceiling; `truth` holds independent segmentations,
    `NAME_SCHEME.nii.gz`. Predictions are kept in `cache`. The recipe in `split_file`, else the
    first model's, names the test scans.
    """
    # models for another task are left out
    opened = [model for model in map(open_model, models) if model.spec.task == "parcellation"]
    source = open_pairs(pairs)
    split = _split(opened, source, split_file, groups)
    scans = {name: load_pairs(source, names) for name, names in split.test.items()}
    first = next(iter(scans))
    findings = Findings(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        split=split,
        first=first,
        networks={m.spec.name: _judge(m, scans, truth, cache) for m in opened},
        ceiling=_noise_ceiling(scans[first], second_labels) if second_labels else None,
        registration=_truth_of(scans, _registration_labels(scans), truth),
    )
    return _write_files(findings, output)


def _noise_ceiling(pairs: Sequence[Pair], second_labels: Path) -> Scores:
    names = [Path(pair.name).name for pair in pairs]
    second = load_pairs(open_pairs(second_labels), names)
    return _dice(pairs, [pair.labels.numpy() for pair in second])


def _write_files(findings: Findings, output: Path) -> str:
    output.mkdir(parents=True, exist_ok=True)
    date = findings.date
    (output / f"{date}.json").write_text(json.dumps(findings.as_dict(), indent=1) + "\n")
    write_regions(findings, output / f"{date}_regions.csv")
    draw_figures(findings, output, date)
    text = markdown(findings)
    (output / f"{date}.md").write_text(text)
    return text


def _split(
    opened: Sequence[Model], source: PairSource, file: Path | None, groups: Sequence[str]
) -> Split:
    """Return the test scans, none of which any model was trained on."""
    names = [model.spec.name for model in opened]
    recipes = [model.spec.training["recipe"]["data"] for model in opened]
    data = tomllib.loads(file.read_text()) if file else recipes[0]
    unknown = set(groups) - set(data["test"])
    if unknown or not data["test"]:
        raise ConfigError(
            subject=str(file or names[0]),
            expected="test groups" + (f" {', '.join(sorted(unknown))}" if unknown else ""),
            found=", ".join(data["test"]) or "none",
            remedy="Correct --groups, or name test scans in the split.",
        )
    wanted = {name: data["test"][name] for name in groups or data["test"]}
    split = find_split(source, data["train"], data["validation"], wanted)
    tested = {scan for scans in split.test.values() for scan in scans}
    for name, recipe in zip(names, recipes, strict=True):
        patterns = [*recipe["train"], *recipe["validation"]]
        leaked = {scan for scan in tested if any(name_matches(scan, p) for p in patterns)}
        if leaked or names.count(name) > 1:
            raise ConfigError(
                subject=name,
                expected="a model of its own name that never saw a test scan",
                found=f"trained on {', '.join(sorted(leaked))}" if leaked else "two of that name",
                remedy="Correct the split, or leave the model out.",
            )
    return split


def _judge(
    model: Model, groups: Mapping[str, list[Pair]], truth: Path | None, cache: Path | None
) -> Network:
    """Run a model on every test scan and score it."""
    predicted, seconds = _predict(model, groups, cache)
    first = next(iter(groups))
    own = predicted[first]
    distances = [
        hd95(labels, pair.labels.numpy(), voxel_sizes_mm(pair.voxel_to_ras))
        for pair, labels in zip(tqdm(groups[first], desc="HD95", unit="scan"), own, strict=True)
    ]
    missing = [
        (_present(pair.labels.numpy()) & ~_present(labels))
        for pair, labels in zip(groups[first], own, strict=True)
    ]
    return Network(
        model,
        {name: _dice(pairs, predicted[name]) for name, pairs in groups.items()},
        np.stack(distances),
        np.stack(missing),
        _truth_of(groups, predicted, truth),
        seconds[first],
    )


def _dice(pairs: Sequence[Pair], predicted: Sequence[NDArray[np.uint8]]) -> Scores:
    reference = [pair.labels.numpy() for pair in pairs]
    return score_labels([pair.name for pair in pairs], predicted, reference)


def _present(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.bincount(labels.ravel(), minlength=CLASS_COUNT) > 0


def _registration_labels(groups: Mapping[str, list[Pair]]) -> dict[str, list[NDArray[np.uint8]]]:
    return {name: [pair.labels.numpy() for pair in pairs] for name, pairs in groups.items()}


def _predict(
    model: Model, groups: Mapping[str, list[Pair]], cache: Path | None
) -> tuple[dict[str, list[NDArray[np.uint8]]], dict[str, list[float]]]:
    """Predict every scan and return labels and seconds, from the cache if it has them."""
    backend = open_backend(model)
    folder = cache / model.spec.onnx_sha256[:16] if cache else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    labels: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in groups}
    seconds: dict[str, list[float]] = {name: [] for name in groups}
    todo = [(name, pair) for name, pairs in groups.items() for pair in pairs]
    warm = False
    for name, pair in tqdm(todo, desc=model.spec.name, unit="scan"):
        path = folder / f"{pair.name.replace('/', '_')}.npz" if folder else None
        if path and path.is_file():
            with np.load(path) as kept:
                labels[name].append(kept["labels"])
                seconds[name].append(float(kept["seconds"]))
            continue
        image = pair.float_image()[None].numpy()
        if not warm:
            backend.infer(image)
            warm = True
        start = time.perf_counter()
        found = backend.infer(image)[0]
        took = time.perf_counter() - start
        labels[name].append(found)
        seconds[name].append(took)
        if path:
            np.savez_compressed(path, labels=found, seconds=took)
    backend.close()
    return labels, seconds


def _truth_of(
    groups: Mapping[str, list[Pair]],
    predicted: Mapping[str, Sequence[NDArray[np.uint8]]],
    folder: Path | None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Return group -> scan -> structure -> Dice for scans with an independent segmentation."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, pairs in groups.items():
        for pair, labels in zip(pairs, predicted[name], strict=True):
            truth = find_truth(folder, Path(pair.name).name) if folder else None
            if truth is not None:
                dice = truth_dice(truth, labels, pair.voxel_to_ras)
                found.setdefault(name, {})[pair.name] = dice
    return found
