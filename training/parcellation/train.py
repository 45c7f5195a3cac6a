"""Train a network on the pairs of `training.parcellation.label`.

    python -m training.parcellation.train training/configs/compact.toml --pairs PAIRS -o RUN
    torchrun --nproc-per-node 4 -m training.parcellation.train RECIPE --pairs PAIRS -o RUN

RUN receives `last.pt`, `best.pt`, `log.csv`, TensorBoard events and `curves.png`. --minutes stops
cleanly; --resume continues on the same trajectory. PAIRS is a folder, or one file of
`training.parcellation.pack`. With --patch a step sees a random part of the image.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from neurobento.command import run as run_command
from neurobento.errors import ConfigError
from neurobento.networks import network_class
from training.loop.processes import Processes, join_processes
from training.loop.run import Run
from training.loop.start import check_folder, keep_freed_memory
from training.parcellation.dataset import find_split, load_pairs, open_pairs
from training.parcellation.recipe import Recipe, read_recipe
from training.parcellation.registration import find_atlas
from training.parcellation.task import ParcellationTask

__all__ = ["main"]

logger = logging.getLogger(__name__)


def _recipe(args: argparse.Namespace) -> Recipe:
    recipe = read_recipe(args.recipe)
    if args.patch:
        options = dataclasses.replace(recipe.optimisation, patch=tuple(args.patch))
        recipe = dataclasses.replace(recipe, optimisation=options)
    return recipe


def _train(args: argparse.Namespace, recipe: Recipe, processes: Processes, device: str) -> Run:
    last = args.output / "last.pt"
    needs = network_class(recipe.network)
    _check_start(args, recipe.network, needs.starts_from)
    # read the scans
    data, source = recipe.data, open_pairs(args.pairs)
    split = find_split(source, data.train, data.validation, data.test, tests_required=False)
    task = ParcellationTask(
        recipe,
        load_pairs(source, split.train),
        load_pairs(source, split.validation),
        torch.device(device),
        find_atlas(args.atlas) if needs.needs_atlas else None,
        processes,
    )
    run = Run(task, args.output, torch.device(device), processes)
    if processes.first:
        counts = len(split.train), len(split.validation)
        logger.info("%d training scans, %d for validation; %s", *counts, run.precision)
    # train
    if args.resume:
        run.resume(last)
    elif args.start_from:
        task.start_from(args.start_from)
    run.train(args.minutes)
    return run


def _check_start(args: argparse.Namespace, network: str, starts_from: str | None) -> None:
    """Refuse a folder with another run in it, and a new run without the weights it needs."""
    check_folder(args.output, resume=args.resume)
    if starts_from and not (args.resume or args.start_from):
        raise ConfigError(
            subject=network,
            expected=f"weights of {starts_from} to start from",
            found="none",
            remedy=f"Give --start-from models/{starts_from}/weights.pt.",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.parcellation.train")
    parser.add_argument("recipe", type=Path, help="a TOML file, such as those in training/configs")
    parser.add_argument(
        "--pairs",
        type=Path,
        required=True,
        help="folder of training.parcellation.label or file of training.parcellation.pack",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the run")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue from the folder's last.pt")
    start.add_argument(
        "--start-from", type=Path, help="a checkpoint whose weights a new run begins with"
    )
    parser.add_argument("--minutes", type=float, help="stop cleanly after this time")
    parser.add_argument("--patch", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels")
    parser.add_argument("--atlas", type=Path, help="folder with aal.nii.gz and ch2bet.nii.gz")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = _recipe(args)
    keep_freed_memory()
    with join_processes(args.device) as (processes, device):
        run = _train(args, recipe, processes, device)
    if processes.first:
        logger.info("best validation Dice %.4f at step %d", run.best, run.best_step)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main, "training.parcellation.train"))
