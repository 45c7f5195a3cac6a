"""What a run leaves to be read."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.loop.log import TrainingLog

COLUMNS = ("step", "seconds", "loss", "learning_rate", "validation_dice")


def log_in(folder: Path | None) -> TrainingLog:
    return TrainingLog(folder, COLUMNS, "step", "dice")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TrainingLog]:
    made = log_in(tmp_path)
    yield made
    made.close()


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "log.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def steps(log: TrainingLog, first: int, *losses: float) -> None:
    for step, loss in enumerate(losses, start=first):
        log.step(step, loss, learning_rate=0.1 * step)


def test_a_row_has_the_mean_loss_since_the_last_one(log: TrainingLog, tmp_path: Path) -> None:
    steps(log, 1, 4.0, 2.0)
    log.validation(2, 1.5, 0.25)
    steps(log, 3, 1.0, 1.0, 4.0)
    log.validation(5, 4.0, 0.5)
    assert [row["loss"] for row in rows(tmp_path)] == [3.0, 2.0]
    assert rows(tmp_path) == log.validations
    assert rows(tmp_path)[1] == {
        "step": 5,
        "seconds": 4.0,
        "loss": 2.0,
        "learning_rate": 0.5,
        "validation_dice": 0.5,
    }


def test_events_hold_every_step(log: TrainingLog, tmp_path: Path) -> None:
    steps(log, 1, 4.0, 2.0, 1.0)
    log.validation(3, 1.5, 0.25)
    log.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 4.0), (2, 2.0), (3, 1.0)]
    assert [(e.step, e.value) for e in events.Scalars("validation_dice")] == [(3, 0.25)]


def test_a_restored_log_goes_on_from_the_earlier_rows(log: TrainingLog, tmp_path: Path) -> None:
    steps(log, 1, 4.0)
    log.validation(1, 1.0, 0.25)
    second = log_in(tmp_path)
    second.restore(1, log.validations)
    steps(second, 2, 2.0)
    second.validation(2, 2.0, 0.5)
    second.close()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]
    assert [row["step"] for row in log.validations] == [1]


def test_a_log_without_a_folder_writes_nothing(tmp_path: Path) -> None:
    """But counts, as the others do."""
    log = log_in(None)
    log.restore(1, [])
    steps(log, 2, 4.0)
    log.validation(2, 1.0, 0.25)
    log.write()
    log.close()
    assert list(tmp_path.iterdir()) == []
    assert [row["validation_dice"] for row in log.validations] == [0.25]


def test_columns_come_in_the_tasks_order(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, ("epoch", "loss", "validation_loss", "seconds"), "epoch", "loss")
    steps(log, 1, 4.0)
    log.validation(1, 1.5, 0.25)
    log.close()
    text = "epoch,loss,validation_loss,seconds\n1.0,4.0,0.25,1.5\n"
    assert (tmp_path / "log.csv").read_text() == text
