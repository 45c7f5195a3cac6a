"""A training run: network, objective, optimiser and data, moved on step by step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from neurobento.dice import mean_dice
from neurobento.errors import ConfigError
from neurobento.networks import build
from neurobento.networks.atlas_map import AtlasMap
from neurobento.networks.compact import Compact
from neurobento.networks.layers import POSITIONS
from neurobento.networks.unet import ReportUNet
from neurobento.networks.weights import load_network
from training.loop.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from training.loop.log import TrainingLog
from training.loop.processes import ALONE, Processes
from training.loop.recipe import Recipe
from training.parcellation.augmentation import Augmentation, augment
from training.parcellation.dataset import Pair
from training.parcellation.objective import Objective
from training.parcellation.registration import Atlas

__all__ = ["Run"]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Run:
    """A training run: network, optimiser and data, moved on step by step.

    Parameters
    ----------
    recipe
        What to train and how.
    train, validation
        Pairs; `training.parcellation.dataset.load_pairs`.
    folder
        Where checkpoints and logs go.
    device
        "cpu", "cuda", ...
    atlas
        What atlas_map reads its labels from.
    processes
        This one among those that train together.

    Raises
    ------
    ConfigError
        Device, number of processes, training scans or atlas do not fit the recipe.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: Sequence[Pair],
        validation: Sequence[Pair],
        folder: Path,
        device: str = "cpu",
        atlas: Atlas | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.recipe, self.options = recipe, recipe.optimisation
        self.processes = processes
        _check_batch_size(self.options.batch_size, processes.count, len(train))
        self.train_pairs, self.validation_pairs = train, validation
        self.folder, self.device = folder, torch.device(device)
        self.precision = _precision(self.options.precision, self.device)
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(self.options.seed)
        self.network = build(recipe.network)
        if isinstance(self.network, Compact | AtlasMap) and self.options.patch:
            raise ConfigError(
                subject="patch",
                expected=f"none: {recipe.network} needs to see the whole brain",
                found=str(self.options.patch),
                remedy="Leave the patch out.",
            )
        if isinstance(self.network, AtlasMap):
            _give_atlas(self.network, atlas)
        if self.options.mixing_from:
            _hold_mixing(self.network)
        self.network.to(self.device, memory_format=torch.channels_last_3d)
        average = get_ema_multi_avg_fn(self.options.ema_decay)
        self.average = AveragedModel(self.network, multi_avg_fn=average)
        self.objective = Objective(
            # after the copy above, which must not share what checkpointing changes
            self.network,
            self.options.loss,
            checkpointing=self.options.checkpointing,
        )
        self.loss: nn.Module = self.objective
        if processes.count > 1:
            self.loss = DistributedDataParallel(self.objective)
        self.optimiser = self._new_optimiser()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.step, self.seconds = 0, 0.0
        self.best_dice, self.best_step, self.stale = 0.0, 0, 0
        self.log = TrainingLog(folder, silent=not processes.first)

    def _new_optimiser(self) -> torch.optim.Optimizer:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.options.optimiser]
        return kind(
            self.network.parameters(),
            lr=self.options.learning_rate,
            weight_decay=self.options.weight_decay,
        )

    @property
    def steps(self) -> int:
        """Updates in all."""
        return self.options.steps or self.options.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Updates until every training scan was seen once."""
        return len(self.train_pairs) // self.options.batch_size

    @property
    def finished(self) -> bool:
        """Whether all steps are done or validation has stopped improving."""
        return self.step >= self.steps or self.stale >= self.options.patience

    def train(self, minutes: float | None = None) -> None:
        """Go on until the run is finished or the time is up; a checkpoint is written either way."""
        stop = math.inf if minutes is None else time.perf_counter() + 60 * minutes
        try:
            quiet = not self.processes.first
            with tqdm(total=self.steps, initial=self.step, unit="step", disable=quiet) as bar:
                while not self.finished and not self._told(time.perf_counter() >= stop):
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
        self.processes.wait_for_first(self.device)

    def _told(self, stop: bool) -> bool:
        """Whether the first process wants to stop: the others' clocks do not count."""
        return bool(self.processes.tell(float(stop), self.device))

    def _timed_update(self) -> float:
        start, learning_rate = time.perf_counter(), self.learning_rate
        loss = self.update()
        self.seconds += time.perf_counter() - start
        self.log.step(self.step, loss, learning_rate)
        return loss

    @property
    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine to zero at the last step, or no change."""
        if self.step < self.options.warmup_steps:
            return self.options.learning_rate * (self.step + 1) / self.options.warmup_steps
        if self.options.schedule == "constant":
            return self.options.learning_rate
        done = (self.step - self.options.warmup_steps) / max(
            1, self.steps - self.options.warmup_steps
        )
        return self.options.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    @property
    def augmentation(self) -> Augmentation:
        """This step's augmentation: the recipe's, faded towards the end."""
        start = self.options.fade_from * self.steps
        left = max(1.0, self.steps - start)
        done = min(1.0, max(0.0, (self.step - start) / left))
        return self.recipe.augmentation.scaled(1 - done * (1 - self.options.fade_to))

    def update(self) -> float:
        """One step of the optimiser; returns its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        self._set_mixing()
        random = np.random.default_rng([self.options.seed, 2, self.step])
        self.objective.order = random.permutation(len(POSITIONS)).tolist()
        with self._autocast():
            loss = self.loss(*self._batch())
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        if self.options.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.average.update_parameters(self.network)
        self.step += 1
        return float(loss.detach())

    def _set_mixing(self) -> None:
        for network in (self.network, self.average.module):
            if isinstance(network, ReportUNet):
                network.mixing = self.step >= self.options.mixing_from

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """This process's share of the step's augmented pairs, as `Objective` takes them."""
        size = self.options.batch_size
        epoch, place = divmod(self.step, self.steps_per_epoch)
        order = np.random.default_rng([self.options.seed, epoch]).permutation(len(self.train_pairs))
        chosen = order[place * size : (place + 1) * size]
        seeds = np.random.default_rng([self.options.seed, 1, self.step]).integers(2**31, size=size)
        share = slice(self.processes.rank, None, self.processes.count)
        batch = [
            self._crop(self._augmented(self.train_pairs[i], int(seed)), int(seed))
            for i, seed in zip(chosen[share], seeds[: len(chosen)][share], strict=True)
        ]
        images, labels, positions = (torch.stack(part) for part in zip(*batch, strict=True))
        return images.contiguous(memory_format=torch.channels_last_3d), labels, positions

    def _augmented(self, pair: Pair, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        image, labels, positions = (
            part.to(self.device) for part in (pair.image, pair.labels, pair.positions)
        )
        return augment(self.augmentation, seed, image.float() / 255, labels, positions)

    def _crop(
        self, scan: tuple[Tensor, Tensor, Tensor], seed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A random patch of image and labels, where the recipe wants one."""
        image, labels, positions = scan
        if not self.options.patch:
            return scan
        sides = [min(n, side) for n, side in zip(labels.shape, self.options.patch, strict=True)]
        random = np.random.default_rng([self.options.seed, 3, seed])
        starts = [int(random.integers(n - m + 1)) for n, m in zip(labels.shape, sides, strict=True)]
        box = tuple(slice(s, s + m) for s, m in zip(starts, sides, strict=True))
        return image[(slice(None), *box)], labels[box], positions

    def _autocast(self) -> Any:
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    def _time_to_validate(self) -> bool:
        every = self.steps_per_epoch * self.options.validate_epochs
        return self.step % every == 0 or self.step == self.steps

    def validate(self) -> float:
        """Mean Dice of the averaged weights on the validation scans; keeps the best."""
        # the first process speaks for all: their weights are equal
        scores = self._scores() if self.processes.first else [0.0]
        dice = self.processes.tell(float(np.mean(scores)), self.device)
        self.stale += 1
        if dice > self.best_dice:
            self.best_dice, self.best_step, self.stale = dice, self.step, 0
            self.save("best.pt")
        self.log.validation(self.step, self.seconds, dice)
        self.save("last.pt")
        self.log.draw()
        return dice

    def _scores(self) -> list[float]:
        network = self.average.module.eval()
        scores = []
        with torch.inference_mode(), self._autocast():
            for pair in self.validation_pairs:
                labels = network.labels(pair.float_image()[None].to(self.device))
                scores.append(mean_dice(labels[0].cpu().numpy(), pair.labels.numpy()))
        return scores

    def save(self, name: str) -> None:
        """Write a checkpoint into the run's folder."""
        if not self.processes.first:
            return
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

        A fresh atlas_map takes those of compact: they are what it sees regions by.

        Raises
        ------
        ConfigError
            It is not a checkpoint of this network.
        """
        given = load_network(path)
        part = isinstance(given, Compact) and isinstance(self.network, AtlasMap)
        try:
            (self.network.regions if part else self.network).load_state_dict(given.state_dict())
        except RuntimeError:
            raise ConfigError(
                subject=str(path),
                expected=f"a checkpoint of {self.recipe.network}",
                found="one of another network",
                remedy="Name a checkpoint of the recipe's network.",
            ) from None
        if self.options.mixing_from:
            _hold_mixing(self.network)

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


def _check_batch_size(size: int, processes: int, scans: int) -> None:
    if size % processes:
        raise ConfigError(
            subject="batch_size",
            expected=f"a multiple of the {processes} processes",
            found=str(size),
            remedy="Correct the recipe, or start another number of processes.",
        )
    if size > scans:
        raise ConfigError(
            subject="batch_size",
            expected=f"at most the {scans} training scans",
            found=str(size),
            remedy="Correct the recipe, or make more pairs.",
        )


def _precision(wanted: str, device: torch.device) -> str:
    """What "auto" stands for on a device; a name must be possible there."""
    if wanted == "fp16" and device.type != "cuda":
        raise ConfigError(
            subject="precision",
            expected="a CUDA device for fp16",
            found=device.type,
            remedy='Use precision = "auto".',
        )
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "fp16"
    # without AVX-512 a bf16 convolution falls back to a loop a hundred times slower
    return "bf16" if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "fp32"


def _hold_mixing(network: nn.Module) -> None:
    if not isinstance(network, ReportUNet):
        raise ConfigError(
            subject="mixing_from",
            expected="0: only unet has the layer that it means",
            found=type(network).__name__,
            remedy="Leave mixing_from out.",
        )
    network.hold_mixing()


def _give_atlas(network: AtlasMap, atlas: Atlas | None) -> None:
    if atlas is None:
        raise ConfigError(
            subject="atlas_map",
            expected="an atlas to read labels from",
            found="none",
            remedy="Give --atlas FOLDER.",
        )
    arrays = (atlas.labels, atlas.brain, atlas.voxel_to_ras)
    try:
        network.take_atlas(*(torch.from_numpy(array.copy()) for array in arrays))
    except ValueError as error:
        raise ConfigError(
            subject="atlas",
            expected="the atlas that atlas_map was made for",
            found=str(error),
            remedy="Take AAL on Colin27 from mricron-data.",
        ) from None
