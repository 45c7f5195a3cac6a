"""Compare how well methods separate slices with a tumour from healthy ones that they never saw.

    python -m training.anomaly.report training/configs/anomaly_unet.toml ... \\
        --slices FOLDER --work WORK -o results/anomaly

Repeated cross-validation over pictures, one of each group of near-duplicates: every healthy picture
is scored by networks that learnt from others, every tumour by all of them; the healthy validation
slices of each decide reduction and threshold. WORK keeps the scores, so that a run can continue.
Trivial methods are shown for comparison.

Writes `anomaly.json`, `anomaly.md`, `scores.png` (every method's scores) and `failures.png` (what
the first recipe's networks got most wrong).
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import file_sha256, write_atomically
from neurobento.networks import network_class
from neurobento.networks.anomaly import REDUCTIONS, AnomalyNetwork
from training.anomaly.detection import MethodScores, fact_scores, judge, one_network_each
from training.anomaly.figures import draw_failures, draw_scores
from training.anomaly.recipe import AnomalyRecipe, read_anomaly_recipe
from training.anomaly.reductions import ErrorMaps, choose_reduction, error_maps_of, scores_by_all
from training.anomaly.slices import Slices, folds_of, read_slices
from training.anomaly.task import AnomalyTask
from training.loop.run import Run

__all__ = ["Method", "MethodResults", "collect", "main"]

ANOMALY_REPORT_FORMAT = 1
VALIDATION_FOLDS = 5
COMPONENTS = 0.90
"""Share of the variance that the principal components explain."""

CHOSEN = "chosen"
"""Stands for the reduction that each network's validation slices chose."""

Images = NDArray[np.float32]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to score slices, and its name in the table."""

    name: str
    # from training and validation slices (N, 128, 128) and a seed to error maps of slices
    fit: Callable[[Images, Images, int], ErrorMaps]
    # hash of its recipe, not of the code: delete WORK when that changes
    key: str
    # False uses all slices for validation
    learns: bool = True


def network_method(recipe: AnomalyRecipe, device: str) -> Method:
    """Return the method that trains the recipe's network."""

    def fit(train: Images, validation: Images, seed: int) -> ErrorMaps:
        place = torch.device(device)
        seeded = dataclasses.replace(recipe, seed=seed)
        run = Run(AnomalyTask(seeded, train, validation, place), None, place)
        run.train()
        return error_maps_of(cast(AnomalyNetwork, run.best_network()))

    key = json.dumps(recipe_values(recipe), sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return Method(recipe.network, fit, digest, learns=recipe.objective != "none")


def recipe_values(recipe: AnomalyRecipe) -> dict[str, Any]:
    """Return the recipe as plain values, with the hash of an encoder's file instead of its path."""
    values = dataclasses.asdict(recipe)
    if (encoder := Path(recipe.encoder)).is_file():
        values["encoder"] = f"SHA-256 {file_sha256(encoder)}"
    return values


def component_method() -> Method:
    """Return the method that reconstructs slices from principal components."""
    from sklearn.decomposition import PCA

    def fit(train: Images, validation: Images, seed: int) -> ErrorMaps:
        model = PCA(COMPONENTS, random_state=seed).fit(train.reshape(len(train), -1))

        def error_maps(images: Images) -> Images:
            flat = images.reshape(len(images), -1)
            made = model.inverse_transform(model.transform(flat))
            return np.asarray(np.abs(flat - made), np.float32).reshape(images.shape)

        return error_maps

    return Method("principal components", fit, f"{COMPONENTS}")


@dataclasses.dataclass(frozen=True, eq=False)
class MethodResults:
    """The scores and error maps of one method's networks."""

    # reduction, or `CHOSEN`, -> scores
    scores: dict[str, MethodScores]
    # reduction -> number of networks whose validation slices chose it
    chosen: dict[str, int]
    # (H + T, 128, 128): the mean error map of each picture, the healthy ones first
    maps: Images


def collect(method: Method, slices: Slices, repeats: int, folds: int, work: Path) -> MethodResults:
    """Score slices by a method's networks, each trained once and its scores kept in `work`."""
    places = slices.one_of_each()
    images, tumour = slices.images[places], slices.tumour[places]
    healthy = images[~tumour]
    data = hashlib.sha256(images.tobytes() + tumour.tobytes()).hexdigest()[:12]
    names = [*REDUCTIONS, CHOSEN]
    of_healthy = np.zeros((len(names), repeats, len(healthy)))
    of_tumour = np.zeros((len(names), repeats, folds, int(tumour.sum())))
    of_validation: list[list[list[Any]]] = [[[0] * folds for _ in range(repeats)] for _ in names]
    fold_of = np.stack([folds_of(np.arange(len(healthy)), folds, r) for r in range(repeats)])
    maps = np.zeros_like(images)
    chosen: collections.Counter[str] = collections.Counter()
    for repeat in range(repeats):
        for fold in range(folds):
            path = work / f"{method.name}-{method.key}-{data}-{folds}-{repeat}-{fold}.npz"
            inside = fold_of[repeat] != fold
            found = _scores_of_fold(method, path, healthy, images[tumour], inside, repeat, fold)
            chosen[str(found["reduction"])] += 1
            for i, name in enumerate(names):
                by = str(found["reduction"]) if name == CHOSEN else name
                validation = found[f"validation {by}"]
                mean, deviation = validation.mean(), validation.std() + 1e-12
                of_healthy[i, repeat, ~inside] = (found[f"test {by}"] - mean) / deviation
                of_tumour[i, repeat, fold] = (found[f"tumour {by}"] - mean) / deviation
                of_validation[i][repeat][fold] = (validation - mean) / deviation
            maps[: len(healthy)][~inside] += found["test maps"] / repeats
            maps[len(healthy) :] += found["tumour maps"] / (repeats * folds)
    scores = {
        name: MethodScores(of_healthy[i], of_tumour[i], fold_of, of_validation[i])
        for i, name in enumerate(names)
    }
    return MethodResults(scores, dict(chosen), maps)


def _scores_of_fold(
    method: Method,
    path: Path,
    healthy: Images,
    tumour: Images,
    inside: NDArray[np.bool_],
    repeat: int,
    fold: int,
) -> Mapping[str, NDArray[Any]]:
    """Return scores and error maps of validation, test and tumour slices, and the reduction."""
    if path.is_file():
        with np.load(path) as arrays:
            return dict(arrays)
    seed = 1000 * repeat + fold
    rest = healthy[inside]
    in_validation = folds_of(np.arange(len(rest)), VALIDATION_FOLDS, seed) == 0
    error_maps = method.fit(rest[~in_validation], rest[in_validation], seed)
    validation = rest[in_validation] if method.learns else rest
    parts = {"validation": validation, "test": healthy[~inside], "tumour": tumour}
    found: dict[str, NDArray[Any]] = {}
    for part, images in parts.items():
        maps = error_maps(images)
        # half precision is enough for pictures
        found[f"{part} maps"] = maps.astype(np.float16)
        found |= {f"{part} {name}": scores for name, scores in scores_by_all(maps).items()}
    found["reduction"] = np.array(choose_reduction(error_maps, validation, seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    np.savez_compressed(partial, **found)  # type: ignore[arg-type]
    partial.replace(path)
    logger.info("%s: repeat %d, fold %d", method.name, repeat + 1, fold + 1)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    slices = read_slices(args.slices)
    recipes = [_read_recipe(path, args.encoder) for path in args.recipes]
    methods = [*(network_method(recipe, args.device) for recipe in recipes), component_method()]
    if len({method.name for method in methods}) < len(methods):
        raise ConfigError(
            subject="recipes",
            expected="one of each network",
            found="two of one",
            remedy="Compare them in reports of their own.",
        )
    collected = {
        method.name: collect(method, slices, args.repeats, args.folds, args.work)
        for method in methods
    }
    document = {
        "format": ANOMALY_REPORT_FORMAT,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "repeats": args.repeats,
        "folds": args.folds,
        **measure(slices, collected),
        "recipes": [recipe_values(recipe) for recipe in recipes],
    }
    args.output.mkdir(parents=True, exist_ok=True)
    write_atomically(args.output / "anomaly.json", (json.dumps(document, indent=2) + "\n").encode())
    write_atomically(args.output / "anomaly.md", table(document).encode())
    draw(slices, collected, args.output)
    print(table(document))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.anomaly.report")
    parser.add_argument(
        "recipes", type=Path, nargs="+", help="TOML files of training.anomaly.train"
    )
    parser.add_argument("--slices", type=Path, required=True, help="folder with `no` and `yes`")
    parser.add_argument("--work", type=Path, required=True, help="folder for the scores so far")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--encoder", help='of networks that have one: "none" or a file')
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def _read_recipe(path: Path, encoder: str | None) -> AnomalyRecipe:
    """Read a recipe; another encoder is for networks that have one."""
    recipe = read_anomaly_recipe(path)
    if encoder and network_class(recipe.network).has_encoder:
        return dataclasses.replace(recipe, encoder=encoder)
    return recipe


def measure(slices: Slices, collected: Mapping[str, MethodResults]) -> dict[str, Any]:
    """Return the figures of all methods, and of facts about the files."""
    places = slices.one_of_each()
    tumour = slices.tumour[places]
    facts = slices.facts | {"mean of what the network sees": slices.images.mean((1, 2))}
    return {
        "slices": len(slices.names),
        "groups": len(np.unique(slices.group)),
        "pictures": {"healthy": int((~tumour).sum()), "tumour": int(tumour.sum())},
        "methods": {
            name: {
                "chosen": method.chosen,
                "by": {reduction: judge(each) for reduction, each in method.scores.items()},
            }
            for name, method in collected.items()
        },
        "facts": {
            name: _without_threshold(judge(fact_scores(values[places], tumour)))
            for name, values in facts.items()
        },
    }


def _without_threshold(figures: dict[str, Any]) -> dict[str, Any]:
    """Leave out the threshold: a fact has no slices for validation."""
    return {name: value for name, value in figures.items() if name != "at_threshold"}


def draw(slices: Slices, collected: Mapping[str, MethodResults], folder: Path) -> None:
    """Draw all methods' scores in the first repeat, and the first method's failures."""
    of_methods = {
        name: {
            "healthy": method.scores[CHOSEN].healthy[0],
            "tumour": one_network_each(method.scores[CHOSEN])[0],
        }
        for name, method in collected.items()
    }
    draw_scores(of_methods, folder / "scores.png")
    name = next(iter(collected))
    places, scores = slices.one_of_each(), of_methods[name]
    tumour = slices.tumour[places]
    # healthy pictures come first, as in the scores
    draw_failures(
        slices.images[places],
        collected[name].maps,
        np.r_[scores["healthy"], scores["tumour"]],
        tumour,
        folder / "failures.png",
    )


def table(document: Mapping[str, Any]) -> str:
    """Format the document as Markdown tables: the figures, and AUROC by each reduction."""
    pictures = document["pictures"]
    lines = [
        f"{document['slices']} slices, {document['groups']} different pictures, of which "
        f"{pictures['healthy']} healthy and {pictures['tumour']} with a tumour are compared; "
        f"{document['repeats']} times {document['folds']}-fold cross-validation. In brackets "
        "the 95 % interval over pictures.",
        "",
        "| method | AUROC | AUPRC | tumours found at 10 % false positives "
        "| above the threshold: healthy, tumour |",
        "|---|---|---|---|---|",
    ]
    for name, method in document["methods"].items():
        lines.append(_row(name, method["by"][CHOSEN]))
    lines += [_row(name, figures) for name, figures in document["facts"].items()]
    names = [*REDUCTIONS, CHOSEN]
    lines += ["", f"| AUROC by | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for name, method in document["methods"].items():
        values = (f"{method['by'][reduction]['auroc']['value']:.3f}" for reduction in names)
        lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def _row(name: str, figures: Mapping[str, Any]) -> str:
    cells = [
        f"{figures[key]['value']:.3f} ({figures[key]['interval'][0]:.3f}"
        f" to {figures[key]['interval'][1]:.3f})"
        for key in ("auroc", "auprc", "tpr_at_10_fpr")
    ]
    at = figures.get("at_threshold")
    cells.append(
        f"{at['false_positive_rate']:.2f}, {at['true_positive_rate']:.2f}" if at else "n/a"
    )
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    raise SystemExit(run(main, "training.anomaly.report"))
