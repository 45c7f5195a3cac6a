"""Laws of the training loop, with tiny networks."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import training.parcellation.batches
import training.parcellation.task
from neurobento.dice import mean_dice
from neurobento.errors import ConfigError
from neurobento.networks import build
from tests.training.tiny import (
    EACH_RECIPE,
    PNG,
    all_weights,
    assert_bit_equal,
    pair,
    stop_after,
    weights,
    with_options,
)
from training.loop.checkpoint import read_checkpoint
from training.loop.run import Run
from training.parcellation.augmentation import Augmentation
from training.parcellation.recipe import Recipe

pytestmark = pytest.mark.usefixtures("tiny_networks")

Start = Callable[..., Run]
OFF = Augmentation().scaled(0.0)


# --- a trajectory ---


def assert_resumed_as_straight(start: Start, folder: Path, recipe: Recipe, step: int) -> None:
    straight = start(folder / "straight", recipe)
    straight.train()
    first = start(folder / "parts", recipe)
    stop_after(first, step)
    assert first.step == step
    second = start(folder / "parts", recipe)
    second.resume(folder / "parts" / "last.pt")
    assert second.step == step
    second.train()
    assert second.step == straight.step == 4
    assert_bit_equal(all_weights(second), all_weights(straight))
    dices = [[row["validation_dice"] for row in run.log.validations] for run in (second, straight)]
    assert dices[0] == dices[1]


@EACH_RECIPE
@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_run_ends_where_a_straight_one_does(
    start: Start, tmp_path: Path, step: int, recipe: Recipe
) -> None:
    """At the end of an epoch and in the middle of one."""
    assert_resumed_as_straight(start, tmp_path, recipe, step)


@EACH_RECIPE
def test_so_it_does_on_two_threads(start: Start, tmp_path: Path, recipe: Recipe) -> None:
    """All other tests are on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_resumed_as_straight(start, tmp_path, recipe, 3)
    finally:
        torch.set_num_threads(before)


@EACH_RECIPE
def test_runs_of_one_seed_are_equal_and_of_another_differ(
    start: Start, tmp_path: Path, recipe: Recipe
) -> None:
    ended = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = start(tmp_path / name, with_options(recipe, seed=seed, steps=2))
        run.train()
        ended.append(all_weights(run))
    a, b, c = ended
    assert_bit_equal(a, b)
    assert any(not torch.equal(a[k], c[k]) for k in a)


@EACH_RECIPE
def test_training_lowers_the_loss(start: Start, tmp_path: Path, recipe: Recipe) -> None:
    recipe = replace(with_options(recipe, steps=30, learning_rate=0.01), augmentation=OFF)
    run = start(tmp_path, recipe)
    losses = [run.update() for _ in range(30)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_no_time_is_no_step_and_a_time_limit_leaves_a_checkpoint(
    start: Start, tmp_path: Path
) -> None:
    run = start(tmp_path, with_options(steps=10**6))
    run.train(minutes=0)
    assert run.step == 0
    run.train(minutes=1e-6)
    assert run.step <= 1
    assert not run.finished
    assert read_checkpoint(tmp_path / "last.pt").step == run.step


def test_a_checkpoint_of_another_recipe_is_refused(start: Start, tmp_path: Path) -> None:
    start(tmp_path / "a").save("last.pt")
    other = start(tmp_path / "b", with_options(learning_rate=1e-4))
    before = all_weights(other)
    with pytest.raises(ConfigError, match="found a checkpoint of another recipe"):
        other.resume(tmp_path / "a" / "last.pt")
    assert_bit_equal(all_weights(other), before)


def test_a_checkpoint_from_before_an_option_was_added_goes_on(start: Start, tmp_path: Path) -> None:
    """Options that it lacks have had no effect on it."""
    straight = start(tmp_path / "straight")
    straight.train()
    first = start(tmp_path / "a")
    stop_after(first, 2)
    path = tmp_path / "a" / "last.pt"
    values = torch.load(path, weights_only=True)
    del values["recipe"]["preprocessing_version"], values["recipe"]["augmentation"]["cut"]
    torch.save(values, path)
    second = start(tmp_path / "b")
    second.resume(path)
    second.train()
    assert_bit_equal(all_weights(second), all_weights(straight))
    # an option that this recipe has no more is another recipe's
    values["recipe"]["of_another_time"] = 1
    torch.save(values, path)
    with pytest.raises(ConfigError, match="another recipe"):
        start(tmp_path / "d").resume(path)


# --- what it leaves ---


@pytest.mark.usefixtures("drawn_curves")
def test_a_finished_run_leaves_its_files(start: Start, tmp_path: Path) -> None:
    run = start(tmp_path)
    run.train()
    assert run.finished
    assert read_checkpoint(tmp_path / "last.pt").step == 4
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    assert list(tmp_path.glob("events.out.tfevents.*"))
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [float(row["step"]) for row in rows] == [2, 4]
    best = max(rows, key=lambda row: float(row["validation_dice"]))
    kept = read_checkpoint(tmp_path / "best.pt")
    assert kept.best == float(best["validation_dice"]) == run.best > 0
    assert kept.step == kept.best_step == float(best["step"])


@pytest.mark.usefixtures("drawn_curves")
def test_there_is_no_picture_before_a_validation(start: Start, tmp_path: Path) -> None:
    run = start(tmp_path)
    run.train(minutes=0)
    assert not (tmp_path / "curves.png").exists()
    run.validate()
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


@EACH_RECIPE
def test_the_best_checkpoint_has_the_weights_that_were_validated(
    start: Start, tmp_path: Path, recipe: Recipe
) -> None:
    start(tmp_path, recipe).train()
    kept = read_checkpoint(tmp_path / "best.pt")
    network: Any = build(recipe.network).eval()
    network.load_state_dict(kept.average)
    with torch.inference_mode():
        labels = network.labels(pair(2).float_image()[None])[0]
    assert mean_dice(labels.numpy(), pair(2).labels.numpy()) == kept.best


def test_a_run_stops_when_validation_stops_improving(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.parcellation.task, "mean_dice", lambda *_: 0.5)
    run = start(tmp_path, with_options(steps=100, patience=2))
    run.train()
    assert (run.step, run.best_step, run.stale) == (6, 2, 2)


# --- schedules and options ---


def test_the_optimiser_steps_at_the_schedules_rate(start: Start, tmp_path: Path) -> None:
    run = start(tmp_path, with_options(steps=4, warmup_steps=4, learning_rate=1.0))
    used = []
    for _ in range(4):
        run.update()
        used.append(run.optimiser.param_groups[0]["lr"])
    assert used == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_the_optimiser_is_the_recipes(
    start: Start, tmp_path: Path, name: str, kind: type[torch.optim.Optimizer]
) -> None:
    run = start(tmp_path, with_options(optimiser=name, weight_decay=0.25))
    assert type(run.optimiser) is kind
    assert run.optimiser.param_groups[0]["weight_decay"] == 0.25


def test_gradients_are_clipped_only_where_there_is_a_limit(start: Start, tmp_path: Path) -> None:
    norms = []
    for limit in (0.0, 0.01):
        run = start(tmp_path / str(limit), with_options(clip_norm=limit))
        run.update()
        slopes = [p.grad.norm() for p in run.network.parameters() if p.grad is not None]
        norms.append(float(torch.stack(slopes).norm()))
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


def test_a_moving_average_of_no_length_is_the_weights_themselves(
    start: Start, tmp_path: Path
) -> None:
    runs = [start(tmp_path / str(d), with_options(ema_decay=d)) for d in (0.0, 0.9)]
    for run in runs:
        run.train()
    none, some = ((weights(run.network), weights(run.average.module)) for run in runs)
    assert_bit_equal(*none)
    assert any(not torch.equal(some[0][k], some[1][k]) for k in some[0])


# --- precision ---


@pytest.mark.parametrize(
    ("capability", "precision"),
    [("DEFAULT", "fp32"), ("AVX2", "fp32"), ("AVX512", "bf16"), ("AVX512_VNNI", "bf16")],
)
def test_auto_is_bf16_on_cpus_that_are_fast_with_it(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: str, precision: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert start(tmp_path, with_options(precision="auto")).precision == precision


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_forward_pass_runs_in_the_recipes_precision(
    start: Start, tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    run = start(tmp_path, with_options(precision=precision))
    logits = []
    run.network.register_forward_hook(lambda _module, _inputs, output: logits.append(output.dtype))
    assert math.isfinite(run.update())
    assert logits == [dtype]
    assert all(p.dtype == torch.float32 for p in run.network.parameters())


def test_fp16_without_cuda_is_refused(start: Start, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a CUDA device for fp16; found cpu"):
        start(tmp_path / "run", with_options(precision="fp16"))
    assert not (tmp_path / "run").exists()
