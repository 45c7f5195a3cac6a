"""The log of a run: a CSV file and TensorBoard events."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

__all__ = ["Row", "TrainingLog"]

Row = dict[str, float]
"""A validation: column of the log -> value."""


class TrainingLog:
    """Rows of `log.csv`, one for each validation, and TensorBoard events for each step."""

    def __init__(self, folder: Path | None, columns: Sequence[str], unit: str, metric: str) -> None:
        self.folder, self.columns = folder, tuple(columns)
        self.unit, self.metric = unit, f"validation_{metric}"
        self.validations: list[Row] = []
        self._losses: list[float] = []
        self._learning_rate = 0.0
        self._events = self._open()

    def _open(self, purge_step: int | None = None) -> SummaryWriter | None:
        if self.folder is None:
            return None
        return SummaryWriter(str(self.folder), purge_step=purge_step)

    def step(self, step: int, loss: float, learning_rate: float) -> None:
        """Record one step."""
        self._losses.append(loss)
        self._learning_rate = learning_rate
        self._add(step, loss=loss, learning_rate=learning_rate)

    def validation(self, step: int, seconds: float, value: float) -> None:
        """Record a validation, with the mean loss since the last one."""
        values = {
            self.unit: float(step),
            "seconds": seconds,
            "loss": sum(self._losses) / max(1, len(self._losses)),
            "learning_rate": self._learning_rate,
            self.metric: value,
        }
        self._losses.clear()
        self.validations.append({column: values[column] for column in self.columns})
        self._add(step, **{self.metric: value})
        if self._events:
            self._events.flush()
        self.write()

    def restore(self, step: int, history: Sequence[Row]) -> None:
        """Continue from an earlier run's rows."""
        self.validations = [dict(row) for row in history]
        self.close()
        self._events = self._open(purge_step=step)

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self._events:
            self._events.close()

    def _add(self, step: int, **scalars: float) -> None:
        if self._events:
            for name, value in scalars.items():
                self._events.add_scalar(name, value, step)

    def write(self) -> None:
        """Write `log.csv`."""
        if self.folder is None:
            return
        with (self.folder / "log.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.validations)
