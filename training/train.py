"""Train a network on the pairs of `training.label`.

    python -m training.train training/configs/compact.toml --pairs PAIRS -o RUN

RUN receives `last.pt` (resume it with --resume), `best.pt`, `log.csv`,
TensorBoard events and `curves.png`. With --minutes the run stops cleanly after
that time; --resume goes on along the same trajectory, since order and
augmentation are functions of seed and step alone.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from neurobento.command import run
from neurobento.dice import mean_dice
from neurobento.errors import ConfigError
from neurobento.networks import build
from neurobento.networks.weights import load_network
from training.augmentation import Augmentation, augment
from training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from training.dataset import Pair, Split, find_split, load_pairs
from training.log import TrainingLog
from training.loss import dice_cross_entropy
from training.recipe import Recipe, read_recipe

__all__ = ["Run", "main"]

logger = logging.getLogger(__name__)

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Run:
    """A training run: network, optimiser and data, moved on step by step.

    Parameters
    ----------
    recipe
        What to train and how.
    train, validation
        Pairs; `training.dataset.load_pairs`.
    folder
        Where checkpoints and logs go.
    device
        "cpu", "cuda", ...
    """

    def __init__(
        self,
        recipe: Recipe,
        train: Sequence[Pair],
        validation: Sequence[Pair],
        folder: Path,
        device: str = "cpu",
    ) -> None:
        self.recipe, self.options = recipe, recipe.optimisation
        if self.options.precision == "fp16" and not device.startswith("cuda"):
            raise ConfigError(
                subject="precision",
                expected="a CUDA device for fp16",
                found=device,
                remedy='Use precision = "bf16".',
            )
        self.train_pairs, self.validation_pairs = train, validation
        self.folder, self.device = folder, torch.device(device)
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(self.options.seed)
        self.network = build(recipe.network).to(self.device, memory_format=torch.channels_last_3d)
        average = get_ema_multi_avg_fn(self.options.ema_decay)
        self.average = AveragedModel(self.network, multi_avg_fn=average)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.options.learning_rate,
            weight_decay=self.options.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.options.precision == "fp16"
        )
        self.step, self.seconds = 0, 0.0
        self.best_dice, self.best_step, self.stale = 0.0, 0, 0
        self.log = TrainingLog(folder)

    @property
    def steps_per_epoch(self) -> int:
        """Updates until every training scan was seen once."""
        return max(1, len(self.train_pairs) // self.options.batch_size)

    @property
    def finished(self) -> bool:
        """Whether all steps are done or validation has stopped improving."""
        return self.step >= self.options.steps or self.stale >= self.options.patience

    def train(self, minutes: float | None = None) -> None:
        """Go on until the run is finished or the time is up; a checkpoint is written either way."""
        stop = math.inf if minutes is None else time.perf_counter() + 60 * minutes
        try:
            with tqdm(total=self.options.steps, initial=self.step, unit="step") as bar:
                while not self.finished and time.perf_counter() < stop:
                    loss = self._timed_update()
                    bar.set_postfix(loss=f"{loss:.3f}", dice=f"{self.best_dice:.4f}", refresh=False)
                    bar.update()
                    if self._time_to_validate():
                        self.validate()
        # an interrupted run goes on from here too
        finally:
            self.save("last.pt")
            self.log.draw()
            self.log.close()

    def _timed_update(self) -> float:
        start, learning_rate = time.perf_counter(), self.learning_rate
        loss = self.update()
        self.seconds += time.perf_counter() - start
        self.log.step(self.step, loss, learning_rate)
        return loss

    @property
    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine to zero at the last step."""
        if self.step < self.options.warmup_steps:
            return self.options.learning_rate * (self.step + 1) / self.options.warmup_steps
        done = (self.step - self.options.warmup_steps) / max(
            1, self.options.steps - self.options.warmup_steps
        )
        return self.options.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    @property
    def augmentation(self) -> Augmentation:
        """This step's augmentation: the recipe's, faded towards the end."""
        start = self.options.fade_from * self.options.steps
        left = max(1.0, self.options.steps - start)
        done = min(1.0, max(0.0, (self.step - start) / left))
        return self.recipe.augmentation.scaled(1 - done * (1 - self.options.fade_to))

    def update(self) -> float:
        """One step of the optimiser; returns its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        image, labels = self._batch()
        with self._autocast():
            logits, chosen = self._logits(image, labels)
        loss = dice_cross_entropy(logits, chosen)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.average.update_parameters(self.network)
        self.step += 1
        return float(loss.detach())

    def _batch(self) -> tuple[Tensor, Tensor]:
        """This step's augmented pairs, (N, 1, X, Y, Z) float32 and (N, X, Y, Z) uint8."""
        size = self.options.batch_size
        epoch, place = divmod(self.step, self.steps_per_epoch)
        order = np.random.default_rng([self.options.seed, epoch]).permutation(len(self.train_pairs))
        chosen = [self.train_pairs[i] for i in order[place * size : (place + 1) * size]]
        seeds = np.random.default_rng([self.options.seed, 1, self.step]).integers(2**31, size=size)
        pairs = [
            augment(
                self.augmentation,
                int(seed),
                pair.float_image().to(self.device),
                pair.labels.to(self.device),
            )
            for pair, seed in zip(chosen, seeds, strict=False)
        ]
        images, labels = zip(*pairs, strict=True)
        return (
            torch.stack(images).contiguous(memory_format=torch.channels_last_3d),
            torch.stack(labels),
        )

    def _logits(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (V, C) and labels (V,): a sample of voxels where the network offers one."""
        if hasattr(self.network, "sampled_logits"):
            positions = np.random.default_rng([self.options.seed, 2, self.step]).permutation(8)
            logits, chosen = self.network.sampled_logits(image, labels, positions.tolist())
            return logits, chosen
        logits = self.network(image).permute(0, 2, 3, 4, 1).flatten(0, 3)
        return logits, labels.flatten().long()

    def _autocast(self) -> Any:
        dtype = PRECISIONS[self.options.precision]
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    def _time_to_validate(self) -> bool:
        every = self.steps_per_epoch * self.options.validate_epochs
        return self.step % every == 0 or self.step == self.options.steps

    def validate(self) -> float:
        """Mean Dice of the averaged weights on the validation scans; keeps the best."""
        network = self.average.module.eval()
        scores = []
        with torch.inference_mode(), self._autocast():
            for pair in self.validation_pairs:
                labels = network.labels(pair.float_image()[None].to(self.device))
                scores.append(mean_dice(labels[0].cpu().numpy(), pair.labels.numpy()))
        dice = float(np.mean(scores))
        self.stale += 1
        if dice > self.best_dice:
            self.best_dice, self.best_step, self.stale = dice, self.step, 0
            self.save("best.pt")
        self.log.validation(self.step, self.seconds, dice)
        self.save("last.pt")
        self.log.draw()
        return dice

    def save(self, name: str) -> None:
        """Write a checkpoint into the run's folder."""
        checkpoint = Checkpoint(
            recipe=self.recipe.as_dict(),
            step=self.step,
            seconds=self.seconds,
            best_dice=self.best_dice,
            best_step=self.best_step,
            stale=self.stale,
            network=self.network.state_dict(),
            average=self.average.module.state_dict(),
            optimiser=self.optimiser.state_dict(),
            scaler=self.scaler.state_dict(),
            history=self.log.validations,
        )
        write_checkpoint(self.folder / name, checkpoint)

    def start_from(self, path: Path) -> None:
        """Take over the averaged weights of another run's checkpoint, and nothing else of it.

        Raises
        ------
        ConfigError
            It is not a checkpoint of this network.
        """
        weights = load_network(path).state_dict()
        self.network.load_state_dict(weights)

    def resume(self, path: Path) -> None:
        """Take over the state of a checkpoint of the same recipe.

        Raises
        ------
        ConfigError
            The checkpoint was made with another recipe.
        """
        checkpoint = read_checkpoint(path)
        if checkpoint.recipe != self.recipe.as_dict():
            raise ConfigError(
                subject=str(path),
                expected="a checkpoint of this recipe",
                found="one of another",
                remedy="Give its own recipe, or start a new run.",
            )
        self.network.load_state_dict(checkpoint.network)
        self.average.module.load_state_dict(checkpoint.average)
        self.average.n_averaged.fill_(checkpoint.step)
        self.optimiser.load_state_dict(checkpoint.optimiser)
        self.scaler.load_state_dict(checkpoint.scaler)
        self.step, self.seconds = checkpoint.step, checkpoint.seconds
        self.best_dice, self.best_step = checkpoint.best_dice, checkpoint.best_step
        self.stale = checkpoint.stale
        self.log.restore(checkpoint.step, checkpoint.history)


def _load(recipe: Recipe, pairs: Path) -> tuple[Split, list[Pair], list[Pair]]:
    data = recipe.data
    split = find_split(pairs, data.train, data.validation, data.test, tests_required=False)
    return split, load_pairs(pairs, split.train), load_pairs(pairs, split.validation)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.train")
    parser.add_argument("recipe", type=Path, help="a TOML file, such as those in training/configs")
    parser.add_argument("--pairs", type=Path, required=True, help="folder of training.label")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's last.pt")
    parser.add_argument(
        "--start-from", type=Path, help="a checkpoint whose weights a new run begins with"
    )
    parser.add_argument("--minutes", type=float, help="stop cleanly after this time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = read_recipe(args.recipe)
    split, train, validation = _load(recipe, args.pairs)
    logger.info("%d training scans, %d for validation", len(split.train), len(split.validation))
    last = args.output / "last.pt"
    if last.is_file() != args.resume:
        raise ConfigError(
            subject=str(args.output),
            expected="a run to go on from" if args.resume else "a folder without a run in it",
            found="no last.pt" if args.resume else "last.pt",
            remedy="Name another folder."
            if args.resume
            else "Go on with --resume, or name another folder.",
        )
    training = Run(recipe, train, validation, args.output, args.device)
    if args.resume:
        training.resume(last)
    elif args.start_from:
        training.start_from(args.start_from)
    training.train(args.minutes)
    logger.info("best validation Dice %.4f at step %d", training.best_dice, training.best_step)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.train"))
