"""Laws of a training run, with tiny networks."""

from __future__ import annotations

import csv
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn import functional as F

import neurobento.networks.weights
import training.parcellation.run
from neurobento.dice import mean_dice
from neurobento.errors import ConfigError
from neurobento.networks.atlas_map import AtlasMap
from neurobento.networks.compact import Compact
from neurobento.networks.unet import ReportUNet
from training.loop.checkpoint import read_checkpoint
from training.loop.processes import Processes
from training.loop.recipe import Data, Optimisation, Recipe
from training.parcellation.augmentation import Augmentation
from training.parcellation.dataset import Pair
from training.parcellation.registration import Atlas
from training.parcellation.run import Run

SHAPE, BLOCKS, BRAIN = (21, 26, 23), (11, 13, 12), (20, 24, 22)
PNG = b"\x89PNG\r\n\x1a\n"
OFF = Augmentation().scaled(0.0)
RECIPE = Recipe(
    "unet",
    Data(("s*",), ("v*",)),
    Optimisation(steps=4, warmup_steps=2, precision="fp32", validate_epochs=1),
)
COMPACT = replace(RECIPE, network="compact")
ATLAS_MAP = replace(
    RECIPE, network="atlas_map", optimisation=replace(RECIPE.optimisation, loss="positions")
)
ALL = pytest.mark.parametrize("recipe", [RECIPE, COMPACT, ATLAS_MAP], ids=lambda r: r.network)


class Classifier(nn.Module):
    """Logits of four classes from two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, 8, 3, padding=1, bias=False),
            nn.InstanceNorm3d(8),
            nn.ReLU(),
            nn.Conv3d(8, 4, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.body(image)
        return logits

    def sampled_logits(self, image: Tensor, labels: Tensor, _: Any) -> tuple[Tensor, Tensor]:
        return self(image).movedim(1, -1).flatten(0, 3), labels.flatten().long()

    def labels(self, image: Tensor) -> Tensor:
        return self.forward(image).argmax(dim=1).byte()


def cells(shape: tuple[int, int, int]) -> Any:
    """Classes 1 to 112 in a grid's boxes."""
    x, y, z = np.indices(shape, sparse=True)
    a, b, c = shape
    return (1 + (x * 4 // a * 4 + y * 4 // b) * 7 + z * 7 // c).astype(np.uint8)


class Places(Compact):
    """Sees regions by where they are, as if every brain were as wide as the image."""

    def block_shares(self, features: Tensor, blocks: Tensor) -> Tensor:
        ends = [m - n for n, m in zip(BLOCKS, blocks.shape[2:], strict=True)]
        seen = np.pad(cells(BLOCKS), [(0, end) for end in ends])
        shares = F.one_hot(torch.from_numpy(seen).long(), 117).movedim(-1, 0).float()
        return shares.expand(len(blocks), -1, -1, -1, -1)


WIDTHS = (8, 8, 8)


def tiny_network(preset: str) -> nn.Module:
    if preset == "compact":
        return Compact(WIDTHS, head_width=8, shape=SHAPE)
    if preset == "atlas_map":
        regions = Places(WIDTHS, head_width=8, shape=SHAPE)
        return AtlasMap(regions, (8, 8), brain_shape=BRAIN, shape=SHAPE)
    return Classifier()


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.parcellation.run, "build", tiny_network)
    monkeypatch.setattr(neurobento.networks.weights, "build", tiny_network)


def labels_of(shape: tuple[int, int, int], seed: int) -> Any:
    """Three slabs along a slanted axis, elsewhere for each seed."""
    x, y, z = np.indices(shape, sparse=True)
    return ((x + y // 2 + z // 3 + 2 * seed) // 8 % 4).astype(np.uint8)


def pair(seed: int) -> Pair:
    """Grey values 60 apart for labels; positions some voxels off where atlas_map begins."""
    labels = torch.from_numpy(labels_of(SHAPE, seed))
    noise = torch.randint(40, labels.shape, generator=torch.Generator().manual_seed(seed))
    positions = torch.from_numpy(2.0 * np.indices(BLOCKS) + 3 + seed).float()
    return Pair(f"s{seed}", (labels * 60 + noise)[None].byte(), labels, np.eye(4), positions)


def small_atlas(shape: tuple[int, int, int] = BRAIN) -> Atlas:
    """A textured box in an empty grid; regions without a cell have a voxel beside it."""
    random = np.random.default_rng(0)
    brain, labels = np.zeros((2, *(n + 12 for n in shape)), np.float32)
    inside = (slice(6, -6),) * 3
    brain[inside] = random.uniform(0.1, 1, shape)
    labels[inside] = cells(shape)
    labels[3, 3, 3:7] = range(113, 117)
    return Atlas(brain, labels.astype(np.uint8), np.eye(4))


@pytest.fixture
def report_unet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of the recipes for "unet" is report A's, with narrow layers."""

    def build(_: str) -> nn.Module:
        return ReportUNet(UNet(3, 1, 4, channels=(4, 8), strides=(2,), num_res_units=2))

    monkeypatch.setattr(training.parcellation.run, "build", build)
    monkeypatch.setattr(neurobento.networks.weights, "build", build)


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    """The runs of a test; their event files are closed at its end."""
    started: list[Run] = []
    yield started
    for run in started:
        run.log.close()


def start(runs: list[Run], folder: Path, recipe: Recipe = RECIPE) -> Run:
    atlas = small_atlas() if recipe.network == "atlas_map" else None
    runs.append(Run(recipe, [pair(0), pair(1)], [pair(2)], folder, atlas=atlas))
    return runs[-1]


def with_options(recipe: Recipe = RECIPE, **options: Any) -> Recipe:
    return replace(recipe, optimisation=replace(recipe.optimisation, **options))


def weights(run: Run) -> dict[str, Tensor]:
    """Of the network and of its average, one by one."""
    average = {f"average.{k}": v for k, v in run.average.module.state_dict().items()}
    return {k: v.clone() for k, v in {**run.network.state_dict(), **average}.items()}


def assert_bit_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [k for k in first if not torch.equal(first[k], second[k])] == []


def stop_after(run: Run, step: int) -> None:
    """Train until a step by letting the clock jump past the time limit."""
    real = time.perf_counter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: real() + (1e6 if run.step >= step else 0))
        run.train(minutes=1000)


def unchanged(_strength: Augmentation, _seed: int, *scan: Tensor) -> tuple[Tensor, ...]:
    return scan


# --- a trajectory ---


def assert_resumed_as_straight(runs: list[Run], folder: Path, recipe: Recipe, step: int) -> None:
    straight = start(runs, folder / "straight", recipe)
    straight.train()
    first = start(runs, folder / "parts", recipe)
    stop_after(first, step)
    assert first.step == step
    second = start(runs, folder / "parts", recipe)
    second.resume(folder / "parts" / "last.pt")
    assert second.step == step
    second.train()
    assert second.step == straight.step == 4
    assert_bit_equal(weights(second), weights(straight))
    dices = [[row["validation_dice"] for row in run.log.validations] for run in (second, straight)]
    assert dices[0] == dices[1]


@ALL
@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_run_ends_where_a_straight_one_does(
    runs: list[Run], tmp_path: Path, step: int, recipe: Recipe
) -> None:
    """At the end of an epoch and in the middle of one."""
    assert_resumed_as_straight(runs, tmp_path, recipe, step)


@pytest.mark.alone
@ALL
def test_so_it_does_on_two_threads(runs: list[Run], tmp_path: Path, recipe: Recipe) -> None:
    """All other tests are on one; beside another process two would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_resumed_as_straight(runs, tmp_path, recipe, 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("report_unet")
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_resumed_run_mixes_when_a_straight_one_does(
    runs: list[Run], tmp_path: Path, step: int
) -> None:
    """Before the last convolution begins to learn, as it does, and after."""
    recipe = with_options(mixing_from=2)
    straight = start(runs, tmp_path / "straight", recipe)
    straight.train()
    stop_after(start(runs, tmp_path / "parts", recipe), step)
    resumed = start(runs, tmp_path / "parts", recipe)
    resumed.resume(tmp_path / "parts" / "last.pt")
    assert resumed.step == step
    resumed.train()
    assert_bit_equal(weights(resumed), weights(straight))


@ALL
def test_runs_of_one_seed_are_equal_and_of_another_differ(
    runs: list[Run], tmp_path: Path, recipe: Recipe
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        start(runs, tmp_path / name, with_options(recipe, seed=seed, steps=2)).train()
    a, b, c = (weights(run) for run in runs)
    assert_bit_equal(a, b)
    assert any(not torch.equal(a[k], c[k]) for k in a)


@ALL
def test_training_lowers_the_loss(runs: list[Run], tmp_path: Path, recipe: Recipe) -> None:
    recipe = replace(with_options(recipe, steps=30, learning_rate=0.01), augmentation=OFF)
    run = start(runs, tmp_path, recipe)
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


def test_a_checkpoint_of_another_recipe_is_refused(runs: list[Run], tmp_path: Path) -> None:
    start(runs, tmp_path / "a").save("last.pt")
    other = start(runs, tmp_path / "b", with_options(learning_rate=1e-4))
    before = weights(other)
    with pytest.raises(ConfigError, match="a checkpoint of this recipe; found one of another"):
        other.resume(tmp_path / "a" / "last.pt")
    assert_bit_equal(weights(other), before)


@ALL
def test_a_run_may_start_from_anothers_averaged_weights(
    runs: list[Run], tmp_path: Path, recipe: Recipe
) -> None:
    """And from nothing else of it."""
    start(runs, tmp_path / "a", recipe).train()
    run = start(runs, tmp_path / "b", with_options(recipe, seed=1, steps=2))
    run.start_from(tmp_path / "a" / "last.pt")
    average = read_checkpoint(tmp_path / "a" / "last.pt").average
    assert_bit_equal(dict(run.network.state_dict()), average)
    assert (run.step, run.best_dice, run.log.validations) == (0, 0.0, [])
    assert not run.optimiser.state


def test_a_run_starts_from_no_other_networks_weights(runs: list[Run], tmp_path: Path) -> None:
    start(runs, tmp_path / "a", COMPACT).save("last.pt")
    run = start(runs, tmp_path / "b")
    with pytest.raises(ConfigError, match="a checkpoint of unet; found one of another network"):
        run.start_from(tmp_path / "a" / "last.pt")


def test_a_fresh_map_network_takes_compacts_weights_to_see_regions_by(
    runs: list[Run], tmp_path: Path
) -> None:
    """And its average does; nothing else of it changes."""
    start(runs, tmp_path / "a", COMPACT).train()
    run = start(runs, tmp_path / "b", ATLAS_MAP)
    before = weights(run)
    run.start_from(tmp_path / "a" / "last.pt")
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
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        wide = Compact((16, 8, 8), head_width=8, shape=SHAPE)
        patch.setattr(training.parcellation.run, "build", lambda _: wide)
        start(runs, tmp_path / "a", COMPACT).save("last.pt")
    run = start(runs, tmp_path / "b", ATLAS_MAP)
    monkeypatch.setattr(neurobento.networks.weights, "build", lambda _: wide)
    with pytest.raises(ConfigError, match="a checkpoint of atlas_map; found one of another"):
        run.start_from(tmp_path / "a" / "last.pt")


def test_a_map_network_starts_from_no_other_networks_weights(
    runs: list[Run], tmp_path: Path
) -> None:
    start(runs, tmp_path / "a").save("last.pt")
    run = start(runs, tmp_path / "b", ATLAS_MAP)
    with pytest.raises(ConfigError, match="a checkpoint of atlas_map; found one of another"):
        run.start_from(tmp_path / "a" / "last.pt")


# --- what it leaves ---


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


@ALL
def test_the_best_checkpoint_has_the_weights_that_were_validated(
    runs: list[Run], tmp_path: Path, recipe: Recipe
) -> None:
    start(runs, tmp_path, recipe).train()
    kept = read_checkpoint(tmp_path / "best.pt")
    network: Any = tiny_network(recipe.network).eval()
    network.load_state_dict(kept.average)
    with torch.inference_mode():
        labels = network.labels(pair(2).float_image()[None])[0]
    assert mean_dice(labels.numpy(), pair(2).labels.numpy()) == kept.best_dice


def test_a_run_stops_when_validation_stops_improving(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.parcellation.run, "mean_dice", lambda *_: 0.5)
    run = start(runs, tmp_path, with_options(steps=100, patience=2))
    run.train()
    assert (run.step, run.best_step, run.stale) == (6, 2, 2)


def test_the_map_network_keeps_the_atlas_in_its_checkpoint(runs: list[Run], tmp_path: Path) -> None:
    start(runs, tmp_path, ATLAS_MAP).save("last.pt")
    labels = read_checkpoint(tmp_path / "last.pt").average["atlas_labels"]
    assert np.array_equal(labels.numpy(), small_atlas().labels[2:-2, 2:-2, 2:-2])


# --- steps and epochs ---


def test_epochs_are_rounds_through_the_training_scans(runs: list[Run], tmp_path: Path) -> None:
    run = start(runs, tmp_path, with_options(steps=0, epochs=3))
    assert (run.steps_per_epoch, run.steps) == (2, 6)
    run.train()
    assert run.step == 6
    assert [row["step"] for row in run.log.validations] == [2, 4, 6]


def test_an_epoch_has_fewer_steps_the_larger_the_batch(runs: list[Run], tmp_path: Path) -> None:
    run = start(runs, tmp_path, with_options(steps=0, epochs=3, batch_size=2))
    assert run.steps == 3
    run.train_pairs = [pair(0)] * 5
    assert run.steps == 6


def test_every_training_scan_is_seen_once_an_epoch(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.parcellation.run, "augment", unchanged)
    run = start(runs, tmp_path)
    run.train_pairs = [pair(i) for i in range(5)]
    orders = []
    for epoch in range(3):
        seen = []
        for run.step in range(5 * epoch, 5 * epoch + 5):
            image, labels, positions = (part[0] for part in run._batch())
            (found,) = [p for p in run.train_pairs if torch.equal(p.float_image(), image)]
            assert torch.equal(labels, found.labels)
            assert torch.equal(positions, found.positions)
            seen.append(found.name)
        assert sorted(seen) == ["s0", "s1", "s2", "s3", "s4"]
        orders.append(seen)
    assert orders[0] != orders[1]


def test_processes_share_out_the_scans_of_a_step(runs: list[Run], tmp_path: Path) -> None:
    run = start(runs, tmp_path, with_options(batch_size=2))
    run.train_pairs = [pair(i) for i in range(6)]
    whole = run._batch()
    shares = []
    for rank in range(2):
        run.processes = Processes(rank, 2)
        shares.append(run._batch())
    assert not torch.equal(shares[0][0], shares[1][0])
    for part, *halves in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat(halves), part)


# --- schedules and options ---


def test_the_learning_rate_rises_linearly_then_falls_as_half_a_cosine(
    runs: list[Run], tmp_path: Path
) -> None:
    run = start(runs, tmp_path, with_options(steps=110, warmup_steps=10, learning_rate=1.0))
    expected = {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 35: (1 + math.sqrt(0.5)) / 2, 60: 0.5, 110: 0.0}
    for run.step, rate in expected.items():
        assert run.learning_rate == pytest.approx(rate)


@pytest.mark.parametrize("warmup", [0, 10])
def test_a_constant_learning_rate_stays_after_the_warm_up(
    runs: list[Run], tmp_path: Path, warmup: int
) -> None:
    options = {"steps": 110, "warmup_steps": warmup, "learning_rate": 1.0, "schedule": "constant"}
    run = start(runs, tmp_path, with_options(**options))
    rates = []
    for run.step in range(110):
        rates.append(run.learning_rate)
    assert rates == pytest.approx(
        [(i + 1) / warmup for i in range(warmup)] + [1.0] * (110 - warmup)
    )


def test_the_optimiser_steps_at_the_schedules_rate(runs: list[Run], tmp_path: Path) -> None:
    run = start(runs, tmp_path, with_options(steps=4, warmup_steps=4, learning_rate=1.0))
    used = []
    for _ in range(4):
        run.update()
        used.append(run.optimiser.param_groups[0]["lr"])
    assert used == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_the_optimiser_is_the_recipes(
    runs: list[Run], tmp_path: Path, name: str, kind: type[torch.optim.Optimizer]
) -> None:
    run = start(runs, tmp_path, with_options(optimiser=name, weight_decay=0.25))
    assert type(run.optimiser) is kind
    assert run.optimiser.param_groups[0]["weight_decay"] == 0.25


def test_gradients_are_clipped_only_where_there_is_a_limit(runs: list[Run], tmp_path: Path) -> None:
    norms = []
    for limit in (0.0, 0.01):
        run = start(runs, tmp_path / str(limit), with_options(clip_norm=limit))
        run.update()
        slopes = [p.grad.norm() for p in run.network.parameters() if p.grad is not None]
        norms.append(float(torch.stack(slopes).norm()))
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


def test_a_moving_average_of_no_length_is_the_weights_themselves(
    runs: list[Run], tmp_path: Path
) -> None:
    for decay in (0.0, 0.9):
        run = start(runs, tmp_path / str(decay), with_options(ema_decay=decay))
        run.train()
    none, some = ((dict(r.network.state_dict()), r.average.module.state_dict()) for r in runs)
    assert_bit_equal(*none)
    assert any(not torch.equal(some[0][k], some[1][k]) for k in some[0])


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


# --- what learns ---


def test_what_the_map_network_sees_regions_by_does_not_learn(
    runs: list[Run], tmp_path: Path
) -> None:
    """Nor does weight decay shrink it."""
    run = start(runs, tmp_path, with_options(ATLAS_MAP, weight_decay=0.5))
    before = weights(run)
    run.train()
    after = weights(run)
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
def test_the_unet_mixes_from_the_recipes_step_on(runs: list[Run], tmp_path: Path) -> None:
    """In the network and in its average; until then neighbours' weights stand at zero."""
    run = start(runs, tmp_path, with_options(mixing_from=2))
    networks: list[Any] = [run.network, run.average.module]
    assert not any(network.mixing for network in networks)
    found = []
    for _ in range(4):
        run.update()
        found.append([(n.mixing, mixes(n)) for n in networks])
    assert found == [[(False, False)] * 2] * 2 + [[(True, True)] * 2] * 2


@pytest.mark.usefixtures("report_unet")
def test_what_a_held_run_leaves_is_the_whole_unet(runs: list[Run], tmp_path: Path) -> None:
    """A checkpoint knows nothing of what is left out: at zero it changes nothing."""
    run = start(runs, tmp_path, with_options(mixing_from=100))
    run.train()
    loaded: Any = neurobento.networks.weights.load_network(tmp_path / "last.pt")
    assert loaded.mixing
    image = pair(2).float_image()[None]
    with torch.inference_mode():
        held = run.average.module.eval()(image)
        torch.testing.assert_close(loaded(image), held, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("report_unet")
def test_the_unet_always_mixes_unless_the_recipe_holds_it(runs: list[Run], tmp_path: Path) -> None:
    run = start(runs, tmp_path)
    networks: list[Any] = [run.network, run.average.module]
    for _ in range(2):
        assert all(network.mixing for network in networks)
        assert all(map(mixes, networks))
        run.update()


@pytest.mark.usefixtures("report_unet")
def test_a_run_that_starts_from_a_mixing_unet_holds_it_again(
    runs: list[Run], tmp_path: Path
) -> None:
    """Of the weights that it takes over, and of its average once it learns."""
    start(runs, tmp_path / "a").train()
    average = read_checkpoint(tmp_path / "a" / "last.pt").average
    assert neighbours(average[MIXING]).any()
    run = start(runs, tmp_path / "b", with_options(mixing_from=2, seed=1))
    run.start_from(tmp_path / "a" / "last.pt")
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
    runs: list[Run], tmp_path: Path
) -> None:
    """Unless its recipe holds it: neighbours begin to learn with its first step."""
    start(runs, tmp_path / "a", with_options(mixing_from=100)).train()
    run = start(runs, tmp_path / "b")
    run.start_from(tmp_path / "a" / "last.pt")
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
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, same, other = (
        orders(start(runs, tmp_path / str(i), with_options(COMPACT, seed=seed)), monkeypatch)
        for i, seed in enumerate((0, 0, 1))
    )
    assert first == same
    assert all(sorted(order) == list(range(8)) for order in first + other)
    assert len({tuple(order) for order in first + other}) == 8


# --- patches ---


def seen_by(run: Run, action: Callable[[], Any]) -> list[tuple[int, ...]]:
    """Shapes of the images that the run's networks were given."""
    shapes: list[tuple[int, ...]] = []
    for network in (run.network, run.average.module):
        network.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    action()
    return shapes


@pytest.mark.parametrize(
    ("patch", "expected"), [((), SHAPE), ((8, 16, 12), (8, 16, 12)), ((8, 99, 12), (8, 26, 12))]
)
def test_a_step_sees_a_patch_where_the_recipe_wants_one(
    runs: list[Run], tmp_path: Path, patch: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    run = start(runs, tmp_path, with_options(patch=patch, batch_size=2))
    assert seen_by(run, run.update) == [(1, 1, *expected)] * 2  # scan by scan


def test_a_patch_is_the_same_part_of_image_and_labels(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.parcellation.run, "augment", unchanged)
    run = start(runs, tmp_path, with_options(patch=(8, 9, 10), batch_size=2))
    batches = []
    for run.step in range(4):
        image, labels, _ = run._batch()
        assert torch.equal((image[:, 0] * 255).round() // 60, labels.float())
        batches.append(image)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(batches, 2))


def test_patches_reach_every_voxel(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.parcellation.run, "augment", unchanged)
    run = start(runs, tmp_path, with_options(patch=(20, 25, 22)))
    index = torch.arange(math.prod(SHAPE)).reshape(SHAPE)
    run.train_pairs = [replace(pair(0), labels=index)]
    seen = torch.zeros(math.prod(SHAPE), dtype=torch.bool)
    for run.step in range(40):
        seen[run._batch()[1].flatten()] = True
    assert seen.all()


def test_validation_sees_the_whole_image(runs: list[Run], tmp_path: Path) -> None:
    run = start(runs, tmp_path, with_options(patch=(8, 9, 10)))
    given = []
    network = run.average.module
    network.labels = lambda image: given.append(image.shape) or Classifier.labels(network, image)
    run.validate()
    assert given == [(1, 1, *SHAPE)]


# --- precision ---


@pytest.mark.parametrize(
    ("capability", "precision"),
    [("DEFAULT", "fp32"), ("AVX2", "fp32"), ("AVX512", "bf16"), ("AVX512_VNNI", "bf16")],
)
def test_auto_is_bf16_on_cpus_that_are_fast_with_it(
    runs: list[Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
    precision: str,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert start(runs, tmp_path, with_options(precision="auto")).precision == precision


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_forward_pass_runs_in_the_recipes_precision(
    runs: list[Run], tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    run = start(runs, tmp_path, with_options(precision=precision))
    logits = []
    run.network.register_forward_hook(lambda _module, _inputs, output: logits.append(output.dtype))
    assert math.isfinite(run.update())
    assert logits == [dtype]
    assert all(p.dtype == torch.float32 for p in run.network.parameters())


def test_fp16_without_cuda_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a CUDA device for fp16; found cpu"):
        start([], tmp_path / "run", with_options(precision="fp16"))
    assert not (tmp_path / "run").exists()


# --- what does not fit ---


@pytest.mark.parametrize(("size", "count"), [(1, 2), (3, 2), (4, 3)])
def test_a_batch_that_processes_cannot_share_out_is_refused(
    tmp_path: Path, size: int, count: int
) -> None:
    with pytest.raises(ConfigError, match=f"a multiple of the {count} processes; found {size}"):
        Run(
            with_options(batch_size=size),
            [pair(i) for i in range(6)],
            [pair(6)],
            tmp_path,
            processes=Processes(0, count),
        )


def test_a_batch_of_more_scans_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most the 2 training scans; found 3"):
        start([], tmp_path, with_options(batch_size=3))


def test_the_map_network_without_an_atlas_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an atlas to read labels from; found none"):
        Run(ATLAS_MAP, [pair(0)], [pair(1)], tmp_path)


def test_the_map_network_with_another_atlas_is_refused(tmp_path: Path) -> None:
    other = small_atlas((20, 24, 23))
    with pytest.raises(ConfigError, match="the atlas that atlas_map was made for"):
        Run(ATLAS_MAP, [pair(0)], [pair(1)], tmp_path, atlas=other)


@ALL
def test_mixing_of_a_network_without_that_layer_is_refused(tmp_path: Path, recipe: Recipe) -> None:
    """Here the recipe's unet is no U-Net either."""
    with pytest.raises(ConfigError, match="0: only unet has the layer") as caught:
        start([], tmp_path, with_options(recipe, mixing_from=2))
    assert caught.value.subject == "mixing_from"
    assert caught.value.found == type(tiny_network(recipe.network)).__name__


def test_a_loss_of_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found 'positions'"):
        start([], tmp_path, with_options(loss="positions"))


def test_a_patch_where_the_whole_brain_is_needed_is_refused(tmp_path: Path) -> None:
    """With its loss of positions the recipe itself is refused."""
    for name in ("compact", "atlas_map"):
        recipe = replace(with_options(patch=(8, 16, 12)), network=name)
        with pytest.raises(ConfigError, match=f"{name} needs to see the whole brain") as caught:
            Run(recipe, [pair(0)], [pair(1)], tmp_path, atlas=small_atlas())
        assert caught.value.subject == "patch"
