"""What a parcellation network starts from, and what changes while it learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurobento.errors import ConfigError
from neurobento.networks.compact import Compact
from neurobento.networks.weights import load_network
from tests.training import tiny
from tests.training.tiny import (
    ATLAS_MAP,
    COMPACT,
    CPU,
    EACH_RECIPE,
    RECIPE,
    SHAPE,
    Classifier,
    all_weights,
    assert_bit_equal,
    pair,
    parcellation_run,
    small_atlas,
    stop_after,
    with_options,
)
from training.loop.checkpoint import read_checkpoint
from training.loop.run import Run
from training.parcellation.recipe import Recipe
from training.parcellation.task import ParcellationTask

pytestmark = pytest.mark.usefixtures("tiny_networks")

Start = Callable[..., Run]
FOUND_ANOTHER = "found a checkpoint of another"


@pytest.mark.usefixtures("report_unet")
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_resumed_run_mixes_when_a_straight_one_does(
    start: Start, tmp_path: Path, step: int
) -> None:
    """Before the last convolution begins to learn, as it does, and after."""
    recipe = with_options(mixing_from=2)
    straight = start(tmp_path / "straight", recipe)
    straight.train()
    stop_after(start(tmp_path / "parts", recipe), step)
    resumed = start(tmp_path / "parts", recipe)
    resumed.resume(tmp_path / "parts" / "last.pt")
    assert resumed.step == step
    resumed.train()
    assert_bit_equal(all_weights(resumed), all_weights(straight))


@EACH_RECIPE
def test_a_run_may_start_from_anothers_averaged_weights(
    start: Start, tmp_path: Path, recipe: Recipe
) -> None:
    """And from nothing else of it."""
    start(tmp_path / "a", recipe).train()
    run = start(tmp_path / "b", with_options(recipe, seed=1, steps=2))
    run.task.start_from(tmp_path / "a" / "last.pt")
    average = read_checkpoint(tmp_path / "a" / "last.pt").average
    assert_bit_equal(dict(run.network.state_dict()), average)
    assert (run.step, run.best, run.log.validations) == (0, 0.0, [])
    assert not run.optimiser.state


@pytest.mark.parametrize(("network", "other"), [(RECIPE, COMPACT), (ATLAS_MAP, RECIPE)])
def test_a_run_starts_from_no_other_networks_weights(
    start: Start, tmp_path: Path, network: Recipe, other: Recipe
) -> None:
    start(tmp_path / "a", other).save("last.pt")
    run = start(tmp_path / "b", network)
    with pytest.raises(ConfigError, match=f"a checkpoint of {network.network}; {FOUND_ANOTHER}"):
        run.task.start_from(tmp_path / "a" / "last.pt")


def test_a_fresh_map_network_takes_compacts_weights_to_see_regions_by(
    start: Start, tmp_path: Path
) -> None:
    """And its average does; nothing else of it changes."""
    start(tmp_path / "a", COMPACT).train()
    run = start(tmp_path / "b", ATLAS_MAP)
    before = all_weights(run)
    run.task.start_from(tmp_path / "a" / "last.pt")
    average = read_checkpoint(tmp_path / "a" / "last.pt").average
    found = dict(run.network.state_dict())
    assert any(not torch.equal(before[f"regions.{k}"], average[k]) for k in average)
    assert_bit_equal({k: found[f"regions.{k}"] for k in average}, average)
    others = [k for k in found if not k.startswith("regions.")]
    assert_bit_equal({k: found[k] for k in others}, {k: before[k] for k in others})
    run.update()
    averaged: Any = run.average.module
    assert_bit_equal(dict(averaged.regions.state_dict()), average)


def test_a_map_network_takes_no_compact_of_other_widths(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "compact", lambda: Compact((16, 8, 8), head_width=8, shape=SHAPE))
    start(tmp_path / "a", COMPACT).save("last.pt")
    run = start(tmp_path / "b", ATLAS_MAP)
    with pytest.raises(ConfigError, match=f"a checkpoint of atlas_map; {FOUND_ANOTHER}"):
        run.task.start_from(tmp_path / "a" / "last.pt")


def test_the_map_network_keeps_the_atlas_in_its_checkpoint(start: Start, tmp_path: Path) -> None:
    start(tmp_path, ATLAS_MAP).save("last.pt")
    labels = read_checkpoint(tmp_path / "last.pt").average["atlas_labels"]
    assert np.array_equal(labels.numpy(), small_atlas().labels[2:-2, 2:-2, 2:-2])


def test_the_learning_rate_rises_linearly_then_falls_as_half_a_cosine(
    start: Start, tmp_path: Path
) -> None:
    run = start(tmp_path, with_options(steps=110, warmup_steps=10, learning_rate=1.0))
    expected = {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 35: (1 + math.sqrt(0.5)) / 2, 60: 0.5, 110: 0.0}
    for run.step, rate in expected.items():
        assert run.learning_rate == pytest.approx(rate)


@pytest.mark.parametrize("warmup", [0, 10])
def test_a_constant_learning_rate_stays_after_the_warm_up(
    start: Start, tmp_path: Path, warmup: int
) -> None:
    options = {"steps": 110, "warmup_steps": warmup, "learning_rate": 1.0, "schedule": "constant"}
    run = start(tmp_path, with_options(**options))
    rates = []
    for run.step in range(110):
        rates.append(run.learning_rate)
    assert rates == pytest.approx(
        [(i + 1) / warmup for i in range(warmup)] + [1.0] * (110 - warmup)
    )


# --- what learns ---


def test_what_the_map_network_sees_regions_by_does_not_learn(start: Start, tmp_path: Path) -> None:
    """Nor does weight decay shrink it."""
    run = start(tmp_path, with_options(ATLAS_MAP, weight_decay=0.5))
    before = all_weights(run)
    run.train()
    after = all_weights(run)
    moved = {k.removeprefix("average.") for k in after if not torch.equal(before[k], after[k])}
    assert {name.split(".")[0] for name in moved} == {"correct"}


MIXING = "network.model.2.1.conv.unit0.conv.weight"


def neighbours(weight: Tensor) -> Tensor:
    """The weights of report A's U-Net that `mixing` means: all but those of the voxel itself."""
    found = weight.detach().clone()
    found[:, :, 1, 1, 1] = 0
    return found


def mixes(network: nn.Module) -> bool:
    return bool(neighbours(network.get_parameter(MIXING)).any())


@pytest.mark.usefixtures("report_unet")
def test_the_unet_mixes_from_the_recipes_step_on(start: Start, tmp_path: Path) -> None:
    """In the network and in its average; until then neighbours' weights stand at zero."""
    run = start(tmp_path, with_options(mixing_from=2))
    networks: list[Any] = [run.network, run.average.module]
    assert not any(network.mixing for network in networks)
    found = []
    for _ in range(4):
        run.update()
        found.append([(n.mixing, mixes(n)) for n in networks])
    assert found == [[(False, False)] * 2] * 2 + [[(True, True)] * 2] * 2


@pytest.mark.usefixtures("report_unet")
def test_what_a_held_run_leaves_is_the_whole_unet(start: Start, tmp_path: Path) -> None:
    """A checkpoint knows nothing of what is left out: at zero it changes nothing."""
    run = start(tmp_path, with_options(mixing_from=100))
    run.train()
    loaded: Any = load_network(tmp_path / "last.pt")
    assert loaded.mixing
    image = pair(2).float_image()[None]
    with torch.inference_mode():
        held = run.average.module.eval()(image)
        torch.testing.assert_close(loaded(image), held, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("report_unet")
def test_the_unet_always_mixes_unless_the_recipe_holds_it(start: Start, tmp_path: Path) -> None:
    run = start(tmp_path)
    networks: list[Any] = [run.network, run.average.module]
    for _ in range(2):
        assert all(network.mixing for network in networks)
        assert all(map(mixes, networks))
        run.update()


@pytest.mark.usefixtures("report_unet")
def test_a_run_that_starts_from_a_mixing_unet_holds_it_again(start: Start, tmp_path: Path) -> None:
    """Of the weights that it takes over, and of its average once it learns."""
    start(tmp_path / "a").train()
    average = read_checkpoint(tmp_path / "a" / "last.pt").average
    assert neighbours(average[MIXING]).any()
    run = start(tmp_path / "b", with_options(mixing_from=2, seed=1))
    run.task.start_from(tmp_path / "a" / "last.pt")
    held = {**average, MIXING: average[MIXING] - neighbours(average[MIXING])}
    assert_bit_equal(dict(run.network.state_dict()), held)
    networks: list[Any] = [run.network, run.average.module]
    found = []
    for _ in range(3):
        run.update()
        found.append([(n.mixing, mixes(n)) for n in networks])
    assert found == [[(False, False)] * 2] * 2 + [[(True, True)] * 2]


@pytest.mark.usefixtures("report_unet")
def test_a_run_goes_on_mixing_where_the_one_it_starts_from_was_held(
    start: Start, tmp_path: Path
) -> None:
    """Unless its recipe holds it: neighbours begin to learn with its first step."""
    start(tmp_path / "a", with_options(mixing_from=100)).train()
    run = start(tmp_path / "b")
    run.task.start_from(tmp_path / "a" / "last.pt")
    assert not mixes(run.network)
    run.update()
    networks: list[Any] = [run.network, run.average.module]
    assert [(n.mixing, mixes(n)) for n in networks] == [(True, True)] * 2


def orders(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The order of compact's slabs in each of a run's four steps."""
    seen: list[list[int]] = []
    network: Any = run.network
    real = network.sampled_logits
    monkeypatch.setattr(
        network, "sampled_logits", lambda i, x, order: seen.append(list(order)) or real(i, x, order)
    )
    run.train()
    return seen


def test_compacts_order_is_a_permutation_by_seed_and_step(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, same, other = (
        orders(start(tmp_path / str(i), with_options(COMPACT, seed=seed)), monkeypatch)
        for i, seed in enumerate((0, 0, 1))
    )
    assert first == same
    assert all(sorted(order) == list(range(8)) for order in first + other)
    assert len({tuple(order) for order in first + other}) == 8


def test_validation_sees_the_whole_image(start: Start, tmp_path: Path) -> None:
    run = start(tmp_path, with_options(patch=(8, 9, 10)))
    given = []
    network = run.average.module
    network.labels = lambda image: given.append(image.shape) or Classifier.labels(network, image)
    run.validate()
    assert given == [(1, 1, *SHAPE)]


# --- what does not fit ---


def test_the_map_network_without_an_atlas_or_with_another_is_refused() -> None:
    with pytest.raises(ConfigError, match="an atlas to read labels from; found none"):
        ParcellationTask(ATLAS_MAP, [pair(0)], [pair(1)], CPU)
    other = small_atlas((20, 24, 23))
    with pytest.raises(ConfigError, match="the atlas that atlas_map was made for"):
        ParcellationTask(ATLAS_MAP, [pair(0)], [pair(1)], CPU, other)


@EACH_RECIPE
def test_mixing_of_a_network_without_that_layer_is_refused(recipe: Recipe) -> None:
    """Here the recipe's unet is no U-Net either."""
    with pytest.raises(ConfigError, match=f"0: {recipe.network} has no layer") as caught:
        parcellation_run(None, with_options(recipe, mixing_from=2))
    assert (caught.value.subject, caught.value.found) == ("mixing_from", "2")


def test_a_loss_of_another_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="found 'positions'"):
        parcellation_run(None, with_options(loss="positions"))


def test_a_patch_where_the_whole_brain_is_needed_is_refused() -> None:
    """With its loss of positions the recipe itself is refused."""
    for name in ("compact", "atlas_map"):
        recipe = replace(with_options(patch=(8, 16, 12)), network=name)
        with pytest.raises(ConfigError, match=f"{name} needs to see the whole brain") as caught:
            parcellation_run(None, recipe)
        assert caught.value.subject == "patch"


def test_a_network_that_learns_positions_refuses_pairs_without(tiny_networks: None) -> None:
    pairs = [pair(1), replace(pair(2), positions=pair(2).positions * np.nan)]
    with pytest.raises(ConfigError, match="pairs with atlas positions"):
        ParcellationTask(ATLAS_MAP, pairs, pairs[:1], CPU, small_atlas())
