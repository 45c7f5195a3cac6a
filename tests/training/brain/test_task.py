"""Training of a tiny brain finder on a coarse grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.brain.head_map import head_map
from tests.training.tiny import (
    CPU,
    FINDER,
    PNG,
    all_weights,
    assert_bit_equal,
    stop_after,
    weights,
)
from training.brain import augmentation, drawn_heads
from training.brain.heads import Head
from training.brain.recipe import BrainRecipe
from training.brain.task import NO_TISSUE, BrainObjective, BrainTask, soft_dice
from training.loop.checkpoint import read_checkpoint
from training.loop.run import Run

RECIPE = BrainRecipe(
    "brain_finder",
    ("h",),
    ("s",),
    ("v",),
    validation_maps=1,
    steps=4,
    batch_size=2,
    warmup_steps=2,
    validate_every=2,
)
MAPS = [head_map("a"), head_map("b")]

Start = Callable[..., Run]


def real_head(name: str, radius: float) -> Head:
    """A grey ball of brain in a bright shell."""
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in FINDER], indexing="ij")
    distance = (x**2 + y**2 + z**2).sqrt()
    image = (distance < radius + 0.2).float()
    brain = (distance < radius).float()
    return Head(name, torch.where(brain > 0, 0.6, image), brain)


@pytest.fixture(autouse=True)
def coarse(tiny_networks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the finder's grid have a third of its voxels along each axis."""
    for module in (drawn_heads, augmentation):
        monkeypatch.setattr(module, "FINDER_SHAPE", FINDER)
        monkeypatch.setattr(module, "FINDER_VOXEL_MM", 8.1)


def brain_task(recipe: BrainRecipe = RECIPE) -> BrainTask:
    heads = [real_head("h", 0.5)], [real_head("s", 0.45)], [real_head("v", 0.55)]
    return BrainTask(recipe, MAPS, *heads, CPU)


@pytest.fixture
def start() -> Iterator[Start]:
    runs: list[Run] = []

    def begin(folder: Path | None, recipe: BrainRecipe = RECIPE) -> Run:
        runs.append(Run(brain_task(recipe), folder, CPU))
        return runs[-1]

    yield begin
    for run in runs:
        run.log.close()


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    def batch(recipe: BrainRecipe, step: int) -> tuple[Any, ...]:
        (found,) = brain_task(recipe).batches(step)
        return found

    images, brains, tissues, corner = batch(RECIPE, 3)
    assert images.shape == brains.shape == tissues.shape == (2, *FINDER)
    assert all(side in (0, 1) for side in corner)
    again = batch(RECIPE, 3)
    assert all(map(torch.equal, again[:3], (images, brains, tissues)))
    assert again[3] == corner
    assert not torch.equal(batch(RECIPE, 2)[0], images)
    assert not torch.equal(batch(replace(RECIPE, seed=1), 3)[0], images)


@pytest.mark.parametrize(("share", "drawn"), [(1.0, True), (0.0, False)])
def test_only_drawn_heads_have_tissues(share: float, drawn: bool) -> None:
    task = brain_task(replace(RECIPE, drawn_share=share, stripped_share=0.0))
    (_, _, tissues, _) = next(task.batches(0))
    assert bool((tissues != NO_TISSUE).all()) is drawn
    assert bool((tissues == NO_TISSUE).all()) is not drawn


def test_maps_for_validation_are_not_drawn_from() -> None:
    task = brain_task()
    assert [each.name for each in task.maps] == ["a"]
    # one real head and one drawn one
    assert len(task.judged) == 2


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    task = brain_task(replace(RECIPE, steps=10, warmup_steps=2, learning_rate=1.0))
    rates = [task.learning_rate(step, []) for step in range(11)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5)
    assert rates[10] == pytest.approx(0)
    assert sorted(rates[2:], reverse=True) == rates[2:]


def test_soft_dice_is_dice_of_masks() -> None:
    a, b = torch.zeros(2, 1000)
    a[:400], b[200:500] = 1, 1
    assert float(soft_dice(a, b)) == pytest.approx(2 * 200 / 700, abs=2e-3)
    assert float(soft_dice(a, a)) == 1
    assert float(soft_dice(0 * a, 0 * a)) == 1


class Known(torch.nn.Module):
    """Logits that are sure of one answer."""

    def __init__(self, brain: Tensor, tissues: Tensor) -> None:
        super().__init__()
        self.brain, self.tissues = brain, tissues

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        one_hot = torch.nn.functional.one_hot(self.tissues, 11).movedim(-1, 1)
        return (self.brain[:, None] * 2 - 1) * 30, one_hot * 60.0


@pytest.mark.parametrize("corner", [(0, 0, 0), (1, 0, 1)])
def test_the_right_answer_costs_nothing_and_a_wrong_one_something(
    corner: tuple[int, int, int],
) -> None:
    head = drawn_heads.draw_head(MAPS[0], np.random.default_rng(0))
    brain, tissues = head.brain[None], head.tissues[None]
    loss = BrainObjective(Known(brain, tissues))  # type: ignore[arg-type]
    assert float(loss(brain, brain, tissues, corner)) == pytest.approx(0, abs=1e-3)
    wrong = (tissues + 1) % 11
    assert float(loss(brain, brain, wrong, corner)) > 1
    assert float(loss(brain, 1 - brain, tissues, corner)) > 1
    # tissues that are not known cost nothing
    unknown = torch.full_like(tissues, NO_TISSUE)
    assert float(loss(brain, brain, unknown, corner)) == pytest.approx(0, abs=1e-3)
    some = torch.cat([tissues, unknown])
    both = BrainObjective(Known(brain.repeat(2, 1, 1, 1), tissues.repeat(2, 1, 1, 1)))  # type: ignore[arg-type]
    assert float(both(some, brain.repeat(2, 1, 1, 1), some, corner)) == pytest.approx(0, abs=1e-3)


def test_training_lowers_the_loss(start: Start) -> None:
    recipe = replace(RECIPE, steps=20, learning_rate=0.02, drawn_share=1.0, stripped_share=0.0)
    run = start(None, recipe)
    losses = [run.update() for _ in range(20)]
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])


@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_run_ends_where_a_straight_one_does(
    start: Start, tmp_path: Path, step: int
) -> None:
    straight = start(tmp_path / "straight")
    straight.train()
    first = start(tmp_path / "parts")
    stop_after(first, step)
    second = start(tmp_path / "parts")
    second.resume(tmp_path / "parts" / "last.pt")
    assert second.step == step
    second.train()
    assert second.step == straight.step == 4
    assert_bit_equal(all_weights(second), all_weights(straight))
    dices = [[row["validation_dice"] for row in run.log.validations] for run in (second, straight)]
    assert dices[0] == dices[1]


@pytest.mark.usefixtures("drawn_curves")
def test_a_finished_run_leaves_its_curves_and_a_network_to_start_from(
    start: Start, tmp_path: Path
) -> None:
    run = start(tmp_path)
    run.train()
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    kept = read_checkpoint(tmp_path / "best.pt")
    assert 0 < kept.best <= 1
    task = brain_task()
    task.start_from(tmp_path / "best.pt")
    assert_bit_equal(weights(task.network), kept.average)
