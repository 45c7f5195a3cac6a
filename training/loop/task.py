"""The task of a training run: data, objective, metric and schedule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn

from training.loop.log import Row

__all__ = ["Metric", "Optimiser", "Task"]


@dataclass(frozen=True)
class Metric:
    """The number by which a validation is judged."""

    # its column in the log is validation_NAME, its key in a checkpoint best_NAME
    name: str
    higher_is_better: bool

    @property
    def worst(self) -> float:
        """The value that the first validation has to beat."""
        return 0.0 if self.higher_is_better else float("inf")

    def improves(self, value: float, best: float) -> bool:
        """Return True if a value is better than the best one so far."""
        return value > best if self.higher_is_better else value < best


@dataclass(frozen=True)
class Optimiser:
    """Options of the optimiser and of early stopping."""

    kind: Literal["adamw", "adam"]
    weight_decay: float
    # validations without progress until training stops
    patience: int
    # largest norm of the gradient; 0 for no limit
    clip_norm: float = 0.0
    # of the moving average that is validated and kept; 0 keeps the weights themselves
    ema_decay: float = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"


class Task(Protocol):
    """A network, its data, objective and validation; a step is one update or one epoch."""

    # as plain values
    recipe: dict[str, Any]
    optimiser: Optimiser
    metric: Metric
    # what a step is called, in the log too
    unit: str

    @property
    def network(self) -> nn.Module:
        """The network to train."""

    @property
    def columns(self) -> Sequence[str]:
        """Columns of the log: unit, seconds, loss, learning_rate and validation_METRIC."""

    @property
    def steps(self) -> int:
        """Steps in all."""

    def parameters(self) -> list[nn.Parameter]:
        """Return what the optimiser changes."""

    def build_objective(self) -> nn.Module:
        """Build the module that maps a batch to its loss; called once."""

    def learning_rate(self, step: int, history: Sequence[Row]) -> float:
        """Return the learning rate of a step."""

    def prepare_step(self, step: int, networks: Sequence[nn.Module]) -> None:
        """Set what changes during training, in the network and in its average."""

    def batches(self, step: int) -> Iterator[tuple[Any, ...]]:
        """Yield the objective's arguments, once for each update of a step."""

    def validates_after(self, step: int) -> bool:
        """Return True if a validation follows a step."""

    def validate(self, network: nn.Module) -> float:
        """Return the metric of a network in evaluation mode."""

    def draw(self, history: Sequence[Row], path: Path) -> None:
        """Draw the curves of a run."""
