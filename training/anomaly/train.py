"""Train a network for anomalies on healthy slices alone.

    python -m training.anomaly.train training/configs/anomaly_unet.toml --slices FOLDER -o RUN

RUN receives `best.pt` (for `export`), `last.pt` (continue from it with --resume), `log.csv`,
TensorBoard events, `curves.png` (report B's figure 2) and `examples.png` (its figure 3). A fifth of
the healthy slices is for validation: it decides when the learning rate falls and training stops,
how the score follows from the error map, and the threshold.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch

from neurobento.command import run as run_command
from neurobento.networks.anomaly import AnomalyNetwork
from training.anomaly.figures import draw_examples
from training.anomaly.recipe import read_anomaly_recipe
from training.anomaly.reductions import (
    FALSE_POSITIVE_RATE,
    choose_reduction,
    error_maps_of,
    scores_by_all,
    threshold_from,
)
from training.anomaly.slices import folds_of, read_slices
from training.anomaly.task import AnomalyTask
from training.loop.checkpoint import write_values
from training.loop.run import Run

__all__ = ["finish", "main"]

logger = logging.getLogger(__name__)


def finish(run: Run, task: AnomalyTask) -> tuple[AnomalyNetwork, dict[str, float]]:
    """Choose how the best network scores a slice and its threshold, and write best.pt with both."""
    network = cast(AnomalyNetwork, run.best_network())
    healthy, error_maps = task.validation_images.numpy(), error_maps_of(network)
    network.reduction = choose_reduction(error_maps, healthy, task.options.seed)
    scores = scores_by_all(error_maps(healthy))[network.reduction]
    detection = {"threshold": threshold_from(scores), "false_positive_rate": FALSE_POSITIVE_RATE}
    if run.folder:
        values = {
            "recipe": task.recipe,
            "history": run.log.validations,
            "seconds": run.seconds,
            "average": network.state_dict(),
            "detection": detection,
        }
        write_values(run.folder / "best.pt", values)
        run.log.write()
    return network, detection


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.anomaly.train")
    parser.add_argument("recipe", type=Path, help="a TOML file, such as those in training/configs")
    parser.add_argument("--slices", type=Path, required=True, help="folder with `no` and `yes`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--encoder", help='"imagenet", "none" or a file with its weights')
    parser.add_argument("--resume", action="store_true", help="continue from the folder's last.pt")
    parser.add_argument("--minutes", type=float, help="stop cleanly after this time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = read_anomaly_recipe(args.recipe)
    if args.encoder:
        recipe = dataclasses.replace(recipe, encoder=args.encoder)
    # one of each picture, as in `training.anomaly.report`, and the report's 80 to 20
    slices = read_slices(args.slices)
    places = slices.one_of_each()
    healthy = places[~slices.tumour[places]]
    in_validation = folds_of(healthy, 5, recipe.seed) == 0
    train, validation = healthy[~in_validation], healthy[in_validation]
    images = slices.images
    # train
    device = torch.device(args.device)
    task = AnomalyTask(recipe, images[train], images[validation], device)
    run = Run(task, args.output, device)
    if args.resume:
        run.resume(args.output / "last.pt")
    run.train(args.minutes)
    network, detection = finish(run, task)
    if run.best_step:
        logger.info("lowest validation loss %.4f, epoch %d", run.best, run.best_step)
    # show what it learnt
    shown = [*validation[:4], *np.flatnonzero(slices.tumour)[:4]]
    draw_examples(network.cpu(), images[shown], args.output / "examples.png")
    logger.info("score: %s of the error map; %s", network.reduction, detection)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main, "training.anomaly.train"))
