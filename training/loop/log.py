"""What a run leaves to be read: CSV, TensorBoard events and a picture of the curves."""

from __future__ import annotations

import csv
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

__all__ = ["TrainingLog"]

FIELDS = ("step", "seconds", "loss", "learning_rate", "validation_dice")


class TrainingLog:
    """Rows of `log.csv`, one a validation, and finer TensorBoard events.

    Parameters
    ----------
    folder
        The run's folder.
    silent
        Write nothing: another process keeps the log.
    """

    def __init__(self, folder: Path, *, silent: bool = False) -> None:
        self.folder, self.silent = folder, silent
        self.validations: list[dict[str, float]] = []
        self._losses: list[float] = []
        self._learning_rate = 0.0
        self._events = self._open()

    def _open(self, purge_step: int | None = None) -> SummaryWriter | None:
        return None if self.silent else SummaryWriter(str(self.folder), purge_step=purge_step)

    def step(self, step: int, loss: float, learning_rate: float) -> None:
        """Take note of one update."""
        self._losses.append(loss)
        self._learning_rate = learning_rate
        self._add(step, loss=loss, learning_rate=learning_rate)

    def validation(self, step: int, seconds: float, dice: float) -> None:
        """Take note of a validation; the loss beside it is the mean since the last one."""
        loss = sum(self._losses) / max(1, len(self._losses))
        self._losses.clear()
        values = (float(step), seconds, loss, self._learning_rate, dice)
        self.validations.append(dict(zip(FIELDS, values, strict=True)))
        self._add(step, validation_dice=dice)
        if self._events:
            self._events.flush()
            self._write()

    def restore(self, step: int, history: list[dict[str, float]]) -> None:
        """Go on from an earlier run's rows."""
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

    def _write(self) -> None:
        with (self.folder / "log.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(self.validations)

    def draw(self) -> None:
        """`curves.png`: training loss and validation Dice against the step."""
        if self.silent or not self.validations:
            return
        from matplotlib.figure import Figure

        steps = [row["step"] for row in self.validations]
        figure = Figure(figsize=(7, 4), layout="constrained")
        left = figure.add_subplot()
        left.plot(steps, [row["loss"] for row in self.validations], color="tab:blue")
        left.set(xlabel="step", ylabel="training loss")
        left.yaxis.label.set_color("tab:blue")
        right = left.twinx()
        right.plot(steps, [row["validation_dice"] for row in self.validations], color="tab:orange")
        right.set(ylabel="validation Dice", ylim=(0, 1))
        right.yaxis.label.set_color("tab:orange")
        figure.savefig(self.folder / "curves.png", dpi=150)
