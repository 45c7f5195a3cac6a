"""Train the network that finds the brain, on drawn and real heads.

    python -m training.brain.train RECIPE --maps MAPS --heads HEADS -o RUN

RECIPE is training/configs/brain_finder.toml, MAPS a folder of whole-head label maps, HEADS one of
`training.brain.heads`. RUN receives `last.pt`, `best.pt`, `log.csv`, TensorBoard events and
`curves.png`. --minutes stops cleanly; --resume continues on the same trajectory.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from neurobento.command import run as run_command
from training.brain.head_maps import read_head_maps
from training.brain.heads import read_heads
from training.brain.recipe import read_brain_recipe
from training.brain.task import BrainTask
from training.loop.run import Run
from training.loop.start import check_folder, keep_freed_memory

__all__ = ["main"]

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.brain.train")
    parser.add_argument("recipe", type=Path, help="a TOML file, such as those in training/configs")
    parser.add_argument("--maps", type=Path, required=True, help="folder of head label maps")
    parser.add_argument("--heads", type=Path, required=True, help="folder of training.brain.heads")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the run")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue from the folder's last.pt")
    start.add_argument(
        "--start-from", type=Path, help="a checkpoint whose weights a run begins with"
    )
    parser.add_argument("--minutes", type=float, help="stop cleanly after this time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    check_folder(args.output, resume=args.resume)
    keep_freed_memory()
    recipe = read_brain_recipe(args.recipe)
    maps = read_head_maps(args.maps)
    heads, stripped, validation = (
        read_heads(args.heads, names)
        for names in (recipe.heads, recipe.stripped, recipe.validation)
    )
    device = torch.device(args.device)
    task = BrainTask(recipe, maps, heads, stripped, validation, device)
    run = Run(task, args.output, device)
    logger.info(
        "%d maps, %d heads, %d brains; %d heads for validation",
        len(task.maps),
        len(heads),
        len(stripped),
        len(task.judged),
    )
    if args.resume:
        run.resume(args.output / "last.pt")
    elif args.start_from:
        task.start_from(args.start_from)
    run.train(args.minutes)
    logger.info("best validation Dice %.4f at step %d", run.best, run.best_step)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main, "training.brain.train"))
