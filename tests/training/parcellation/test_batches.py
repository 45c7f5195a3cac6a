"""Which scans a training step sees, and how."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import training.parcellation.batches
from neurobento.errors import ConfigError
from tests.training.tiny import CPU, RECIPE, SHAPE, pair, with_options
from training.loop.processes import ALONE, Processes
from training.loop.run import Run
from training.parcellation.augmentation import Augmentation
from training.parcellation.batches import Batches

Start = Callable[..., Run]


def batches_of(scans: int = 2, processes: Processes = ALONE, **options: Any) -> Batches:
    pairs = [pair(i) for i in range(scans)]
    return Batches(with_options(**options), pairs, CPU, processes)


@pytest.fixture
def unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Augmentation leaves scans as they are."""

    def augment(_strength: Augmentation, _seed: int, *scan: Tensor) -> tuple[Tensor, ...]:
        return scan

    monkeypatch.setattr(training.parcellation.batches, "augment", augment)


# --- steps and epochs ---


def test_epochs_are_rounds_through_the_scans_and_fewer_steps_the_larger_the_batch(
    start: Start, tmp_path: Path
) -> None:
    batches = batches_of(steps=0, epochs=3)
    assert (batches.steps_per_epoch, batches.steps) == (2, 6)
    run = start(tmp_path, with_options(steps=0, epochs=3))
    run.train()
    assert run.step == 6
    assert [row["step"] for row in run.log.validations] == [2, 4, 6]
    assert batches_of(2, steps=0, epochs=3, batch_size=2).steps == 3
    assert batches_of(5, steps=0, epochs=3, batch_size=2).steps == 6


@pytest.mark.usefixtures("unchanged")
def test_every_training_scan_is_seen_once_an_epoch() -> None:
    batches = batches_of(5)
    orders = []
    for epoch in range(3):
        seen = []
        for step in range(5 * epoch, 5 * epoch + 5):
            image, labels, positions = (part[0] for part in batches.batch(step))
            (found,) = [p for p in batches.pairs if torch.equal(p.float_image(), image)]
            assert torch.equal(labels, found.labels)
            assert torch.equal(positions, found.positions)
            seen.append(found.name)
        assert sorted(seen) == ["s0", "s1", "s2", "s3", "s4"]
        orders.append(seen)
    assert orders[0] != orders[1]


def test_processes_share_out_the_scans_of_a_step() -> None:
    whole = batches_of(6, batch_size=2).batch(0)
    shares = [batches_of(6, Processes(rank, 2), batch_size=2).batch(0) for rank in range(2)]
    assert not torch.equal(shares[0][0], shares[1][0])
    for part, *halves in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat(halves), part)


@pytest.mark.parametrize(("size", "count"), [(1, 2), (3, 2), (4, 3)])
def test_a_batch_that_processes_cannot_share_out_is_refused(size: int, count: int) -> None:
    with pytest.raises(ConfigError, match=f"a multiple of the {count} processes; found {size}"):
        batches_of(6, Processes(0, count), batch_size=size)


def test_a_batch_of_more_scans_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most the 2 training scans; found 3"):
        batches_of(2, batch_size=3)


# --- augmentation ---


def test_augmentation_fades_linearly_to_its_last_share_where_the_recipe_says_so() -> None:
    batches = batches_of(steps=100, fade_from=0.5, fade_to=0.2)
    full = RECIPE.augmentation.rotation_rad
    shares = {step: batches.augmentation(step).rotation_rad / full for step in (0, 50, 75, 100)}
    assert shares == pytest.approx({0: 1.0, 50: 1.0, 75: 0.6, 100: 0.2})
    assert batches_of(steps=10).augmentation(10) == RECIPE.augmentation


# --- patches ---


@pytest.mark.parametrize(
    ("patch", "expected"), [((), SHAPE), ((8, 16, 12), (8, 16, 12)), ((8, 99, 12), (8, 26, 12))]
)
def test_a_step_sees_a_patch_where_the_recipe_wants_one(
    start: Start, tmp_path: Path, patch: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    run = start(tmp_path, with_options(patch=patch, batch_size=2))
    shapes: list[tuple[int, ...]] = []
    for network in (run.network, run.average.module):
        network.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    run.update()
    assert shapes == [(1, 1, *expected)] * 2  # scan by scan


@pytest.mark.usefixtures("unchanged")
def test_a_patch_is_the_same_part_of_image_and_labels() -> None:
    batches, images = batches_of(patch=(8, 9, 10), batch_size=2), []
    for step in range(4):
        image, labels, _ = batches.batch(step)
        assert torch.equal((image[:, 0] * 255).round() // 60, labels.float())
        images.append(image)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(images, 2))


@pytest.mark.usefixtures("unchanged")
def test_patches_reach_every_voxel() -> None:
    batches = batches_of(patch=(20, 25, 22))
    index = torch.arange(math.prod(SHAPE)).reshape(SHAPE)
    batches.pairs = [replace(pair(0), labels=index)]
    seen = torch.zeros(math.prod(SHAPE), dtype=torch.bool)
    for step in range(40):
        seen[batches.batch(step)[1].flatten()] = True
    assert seen.all()
