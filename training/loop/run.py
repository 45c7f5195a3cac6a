"""The training loop: steps, averaging, validation, early stopping, checkpoints and the log."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from neurobento.errors import ConfigError
from neurobento.networks.weights import read_values
from training.loop.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from training.loop.log import TrainingLog
from training.loop.processes import ALONE, Processes
from training.loop.task import Task

__all__ = ["Run", "choose_precision"]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Run:
    """A training run that can stop at any step and continue on the same trajectory."""

    def __init__(
        self, task: Task, folder: Path | None, device: torch.device, processes: Processes = ALONE
    ) -> None:
        self.task, self.options = task, task.optimiser
        self.folder, self.device, self.processes = folder, device, processes
        self.precision = choose_precision(self.options.precision, device)
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        self.network = task.network
        averaging = get_ema_multi_avg_fn(self.options.ema_decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.network, multi_avg_fn=averaging)
        # after the average's copy, which must not share what gradient checkpointing changes
        self.objective = task.build_objective()
        if processes.count > 1:
            self.objective = DistributedDataParallel(self.objective)
        self.optimiser = OPTIMISERS[self.options.kind](
            task.parameters(), lr=task.learning_rate(0, []), weight_decay=self.options.weight_decay
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.step, self.seconds = 0, 0.0
        self.best, self.best_step, self.stale = task.metric.worst, 0, 0
        self.best_weights: dict[str, Any] = {}
        self._is_within_step = False
        self.log = TrainingLog(
            folder if processes.first else None, task.columns, task.unit, task.metric.name
        )

    @property
    def finished(self) -> bool:
        """True once all steps are done or validation has stopped improving."""
        return self.step >= self.task.steps or self.stale >= self.options.patience

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.task.learning_rate(self.step, self.log.validations)

    def train(self, minutes: float | None = None) -> None:
        """Continue until the run is finished or the time is up, and write a checkpoint."""
        stop = math.inf if minutes is None else time.perf_counter() + 60 * minutes
        quiet = not self.processes.first
        try:
            with tqdm(
                total=self.task.steps, initial=self.step, unit=self.task.unit, disable=quiet
            ) as bar:
                while not self.finished and not self._stops(time.perf_counter() >= stop):
                    loss = self.advance()
                    bar.set_postfix(loss=f"{loss:.4f}", best=f"{self.best:.4f}", refresh=False)
                    bar.update()
        # an interrupted run continues from here too, but never from within a step of many updates
        finally:
            if not self._is_within_step:
                self.save("last.pt")
            self._draw()
            self.log.close()
        self.processes.wait_for_first(self.device)

    def _stops(self, time_is_up: bool) -> bool:
        """Return the first process's decision; the others' clocks do not count."""
        return bool(self.processes.broadcast(float(time_is_up), self.device))

    def advance(self) -> float:
        """Do a step, with the validation that may follow, and return its mean loss."""
        start, learning_rate = time.perf_counter(), self.learning_rate
        loss = self.update()
        self.seconds += time.perf_counter() - start
        self.log.step(self.step, loss, learning_rate)
        if self.task.validates_after(self.step):
            self.validate()
        return loss

    def update(self) -> float:
        """Do a step's updates and return their mean loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        self.task.prepare_step(self.step, (self.network, self.average.module))
        losses = []
        batches = self.task.batches(self.step)
        self._is_within_step = True
        while (loss := self._next_loss(batches)) is not None:
            self.optimiser.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self.scaler.unscale_(self.optimiser)
            if self.options.clip_norm:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip_norm)
            self.scaler.step(self.optimiser)
            self.scaler.update()
            self.average.update_parameters(self.network)
            losses.append(float(loss.detach()))
        self.step += 1
        self._is_within_step = False
        return float(np.mean(losses))

    def _next_loss(self, batches: Iterator[tuple[Any, ...]]) -> Tensor | None:
        # augmentation runs in the reduced precision too: trajectories depend on it
        with self._autocast():
            batch = next(batches, None)
            return None if batch is None else self.objective(*batch)

    def _autocast(self) -> Any:
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    def validate(self) -> float:
        """Return the metric of the averaged weights, and keep the best ones."""
        # the first process speaks for all: their weights are equal
        value = self.task.metric.worst
        if self.processes.first:
            with torch.inference_mode(), self._autocast():
                value = self.task.validate(self.average.module.eval())
        value = self.processes.broadcast(value, self.device)
        self.stale += 1
        better = self.task.metric.improves(value, self.best)
        if better:
            self.best, self.best_step, self.stale = value, self.step, 0
            self.best_weights = copy.deepcopy(self.average.module.state_dict())
            self.save("best.pt")
        self.log.validation(self.step, self.seconds, value)
        self.save("last.pt")
        self._draw()
        return value

    def best_network(self) -> nn.Module:
        """Return a copy of the network with its best weights, in evaluation mode."""
        network = copy.deepcopy(self.average.module).eval()
        if self.best_weights:
            network.load_state_dict(self.best_weights)
        return network

    def _draw(self) -> None:
        if self.folder and self.processes.first and self.log.validations:
            self.task.draw(self.log.validations, self.folder / "curves.png")

    def save(self, name: str) -> None:
        """Write a checkpoint into the run's folder."""
        if self.folder is None or not self.processes.first:
            return
        checkpoint = Checkpoint(
            recipe=self.task.recipe,
            step=self.step,
            seconds=self.seconds,
            best=self.best,
            best_step=self.best_step,
            stale=self.stale,
            network=self.network.state_dict(),
            average=self.average.module.state_dict(),
            optimiser=self.optimiser.state_dict(),
            scaler=self.scaler.state_dict(),
            history=self.log.validations,
        )
        write_checkpoint(self.folder / name, checkpoint, self.task.metric.name)

    def resume(self, path: Path) -> None:
        """Take over the state in a run's last.pt, and the best weights in the best.pt beside it."""
        checkpoint = read_checkpoint(path, self.task.metric.name)
        if _with_new_options(checkpoint.recipe, self.task.recipe) != self.task.recipe:
            raise ConfigError(
                subject=str(path),
                expected="a checkpoint of this recipe",
                found="a checkpoint of another recipe",
                remedy="Give its own recipe, or start a new run.",
            )
        self.network.load_state_dict(checkpoint.network)
        self.average.module.load_state_dict(checkpoint.average)
        self.average.n_averaged.fill_(checkpoint.step)
        self.optimiser.load_state_dict(checkpoint.optimiser)
        self.scaler.load_state_dict(checkpoint.scaler)
        self.step, self.seconds = checkpoint.step, checkpoint.seconds
        self.best, self.best_step = checkpoint.best, checkpoint.best_step
        self.stale = checkpoint.stale
        self.log.restore(checkpoint.step, checkpoint.history)
        best = path.with_name("best.pt")
        if self.best_step and best.is_file():
            self.best_weights = read_values(best)["average"]


def _with_new_options(recipe: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's recipe with the options that have been added since it was written."""
    return {
        key: _with_new_options(recipe.get(key, value), value)
        if isinstance(value, dict)
        else recipe.get(key, value)
        for key, value in new.items()
    } | {key: value for key, value in recipe.items() if key not in new}


def choose_precision(wanted: str, device: torch.device) -> str:
    """Return what "auto" means on a device, or the precision itself if the device has it."""
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
