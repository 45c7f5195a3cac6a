"""Laws of a training run, with a tiny network."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

import training.train
from neurobento.dice import mean_dice
from neurobento.errors import ConfigError
from neurobento.geometry import NETWORK_SHAPE
from neurobento.networks.compact import Compact
from training.augmentation import Augmentation
from training.checkpoint import read_checkpoint
from training.dataset import Pair
from training.recipe import Data, Optimisation, Recipe
from training.train import Run, main

SHAPE = (21, 26, 23)
PNG = b"\x89PNG\r\n\x1a\n"
RECIPE = Recipe(
    "compact",
    Data(("s*",), ("v*",)),
    Optimisation(steps=4, warmup_steps=2, precision="fp32", validate_epochs=1),
)


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(preset: str) -> nn.Module:
        return Compact(widths=(8, 8), head_width=8, classes=4, shape=SHAPE)

    monkeypatch.setattr(training.train, "build", build)


def labels_of(shape: tuple[int, int, int], seed: int) -> Any:
    """Three slabs along a slanted axis, elsewhere for each seed."""
    x, y, z = np.indices(shape, sparse=True)
    return ((x + y // 2 + z // 3 + 2 * seed) // 8 % 4).astype(np.uint8)


def pair(seed: int) -> Pair:
    labels = torch.from_numpy(labels_of(SHAPE, seed))
    noise = torch.randint(40, labels.shape, generator=torch.Generator().manual_seed(seed))
    return Pair(f"s{seed}", (labels * 60 + noise)[None].byte(), labels, np.eye(4))


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    """The runs of a test; their event files are closed at its end."""
    started: list[Run] = []
    yield started
    for run in started:
        run.log._events.close()


def start(runs: list[Run], folder: Path, recipe: Recipe = RECIPE) -> Run:
    runs.append(Run(recipe, [pair(0), pair(1)], [pair(2)], folder))
    return runs[-1]


def with_options(**options: Any) -> Recipe:
    return replace(RECIPE, optimisation=replace(RECIPE.optimisation, **options))


def weights(run: Run) -> dict[str, torch.Tensor]:
    """Of the network and of its average, one by one."""
    average = {f"average.{k}": v for k, v in run.average.module.state_dict().items()}
    return {k: v.clone() for k, v in {**run.network.state_dict(), **average}.items()}


def assert_bit_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [k for k in first if not torch.equal(first[k], second[k])] == []


def stop_after(run: Run, step: int) -> None:
    """Train until a step by letting the clock jump past the time limit."""
    real = time.perf_counter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: real() + (1e6 if run.step >= step else 0))
        run.train(minutes=1000)


@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_run_ends_where_a_straight_one_does(
    runs: list[Run], tmp_path: Path, step: int
) -> None:
    """At the end of an epoch and in the middle of one."""
    straight = start(runs, tmp_path / "straight")
    straight.train()
    first = start(runs, tmp_path / "parts")
    stop_after(first, step)
    assert first.step == step
    second = start(runs, tmp_path / "parts")
    second.resume(tmp_path / "parts" / "last.pt")
    assert second.step == step
    second.train()
    assert second.step == straight.step == 4
    assert_bit_equal(weights(second), weights(straight))
    dices = [[row["validation_dice"] for row in run.log.validations] for run in (second, straight)]
    assert dices[0] == dices[1]


def test_runs_of_one_seed_are_equal_and_of_another_differ(runs: list[Run], tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        start(runs, tmp_path / name, with_options(seed=seed, steps=2)).train()
    a, b, c = (weights(run) for run in runs)
    assert_bit_equal(a, b)
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_training_lowers_the_loss(runs: list[Run], tmp_path: Path) -> None:
    recipe = with_options(steps=30, learning_rate=0.01)
    still = Augmentation(0.0, 0.0, 0.0, (0.0, 0.0), 0.0, 0.0, 0.0)
    run = start(runs, tmp_path, replace(recipe, augmentation=still))
    losses = [run.update() for _ in range(30)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_a_time_limit_stops_the_run_and_leaves_a_checkpoint(
    runs: list[Run], tmp_path: Path
) -> None:
    run = start(runs, tmp_path, with_options(steps=10**6))
    run.train(minutes=1e-6)
    assert run.step <= 1
    assert not run.finished
    assert read_checkpoint(tmp_path / "last.pt").step == run.step


def test_no_time_is_no_step(runs: list[Run], tmp_path: Path) -> None:
    run = start(runs, tmp_path, with_options(steps=2))
    run.train(minutes=0)
    assert run.step == 0


def test_a_finished_run_leaves_its_files(runs: list[Run], tmp_path: Path) -> None:
    run = start(runs, tmp_path)
    run.train()
    assert run.finished
    assert read_checkpoint(tmp_path / "last.pt").step == 4
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    assert list(tmp_path.glob("events.out.tfevents.*"))
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [float(row["step"]) for row in rows] == [2, 4]
    best = max(rows, key=lambda row: float(row["validation_dice"]))
    kept = read_checkpoint(tmp_path / "best.pt")
    assert kept.best_dice == float(best["validation_dice"]) == run.best_dice > 0
    assert kept.step == kept.best_step == float(best["step"])


def test_the_best_checkpoint_has_the_weights_that_were_validated(
    runs: list[Run], tmp_path: Path
) -> None:
    start(runs, tmp_path).train()
    kept = read_checkpoint(tmp_path / "best.pt")
    network = Compact((8, 8), 8, 4, SHAPE).eval()
    network.load_state_dict(kept.average)
    with torch.inference_mode():
        labels = network.labels(pair(2).float_image()[None])[0]
    assert mean_dice(labels.numpy(), pair(2).labels.numpy()) == kept.best_dice


def test_a_run_stops_when_validation_stops_improving(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.train, "mean_dice", lambda *_: 0.5)
    run = start(runs, tmp_path, with_options(steps=100, patience=2))
    run.train()
    assert (run.step, run.best_step, run.stale) == (6, 2, 2)


def test_the_learning_rate_rises_linearly_then_falls_as_half_a_cosine(
    runs: list[Run], tmp_path: Path
) -> None:
    run = start(runs, tmp_path, with_options(steps=110, warmup_steps=10, learning_rate=1.0))
    expected = {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 35: (1 + math.sqrt(0.5)) / 2, 60: 0.5, 110: 0.0}
    for run.step, rate in expected.items():
        assert run.learning_rate == pytest.approx(rate)


def test_every_training_scan_is_seen_once_an_epoch(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.train, "augment", lambda _s, _seed, *both: both)
    run = start(runs, tmp_path)
    run.train_pairs = [pair(i) for i in range(5)]
    for epoch in range(3):
        seen = []
        for run.step in range(5 * epoch, 5 * epoch + 5):
            image, _ = run._batch()
            seen += [p.name for p in run.train_pairs if torch.equal(p.float_image(), image[0])]
        assert sorted(seen) == ["s0", "s1", "s2", "s3", "s4"]


def test_a_checkpoint_of_another_recipe_is_refused(runs: list[Run], tmp_path: Path) -> None:
    start(runs, tmp_path / "a").save("last.pt")
    other = start(runs, tmp_path / "b", with_options(learning_rate=1e-4))
    before = weights(other)
    with pytest.raises(ConfigError, match="a checkpoint of this recipe; found one of another"):
        other.resume(tmp_path / "a" / "last.pt")
    assert_bit_equal(weights(other), before)


def test_the_command_trains_then_resumes_on_the_network_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.train, "build", lambda _: Compact((8, 8), 8, classes=4))
    for name in ("s1", "v1"):
        labels = labels_of(NETWORK_SHAPE, 0)
        image = labels.astype(np.float32) / 4
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / f"{name}_image.nii.gz")
        nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / f"{name}_labels.nii.gz")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'network = "compact"\n[data]\ntrain = ["s*"]\nvalidation = ["v*"]\n'
        '[optimisation]\nsteps = 1\nprecision = "fp32"\n'
    )
    run = tmp_path / "run"
    command = [str(recipe), "--pairs", str(tmp_path), "-o", str(run), "--device", "cpu"]
    assert main(command) == 0
    once = (run / "last.pt").stat().st_mtime_ns, read_checkpoint(run / "last.pt")
    assert once[1].step == 1
    assert main([*command, "--resume"]) == 0
    again = read_checkpoint(run / "last.pt")
    assert (again.step, again.history) == (1, once[1].history)


def test_augmentation_fades_linearly_to_its_last_share(runs: list[Run], tmp_path: Path) -> None:
    run = start(runs, tmp_path, with_options(steps=100, fade_from=0.5, fade_to=0.2))
    full = run.recipe.augmentation.rotation_rad
    shares = {}
    for step in (0, 50, 75, 100):
        run.step = step
        shares[step] = run.augmentation.rotation_rad / full
    assert shares == pytest.approx({0: 1.0, 50: 1.0, 75: 0.6, 100: 0.2})


def test_augmentation_stays_whole_unless_the_recipe_fades_it(
    runs: list[Run], tmp_path: Path
) -> None:
    run = start(runs, tmp_path, with_options(steps=10))
    run.step = 10
    assert run.augmentation == run.recipe.augmentation
