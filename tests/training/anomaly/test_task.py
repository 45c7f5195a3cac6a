"""Laws of a training run on healthy slices, with narrow networks."""

from __future__ import annotations

import csv
import dataclasses
import math
import urllib.error
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import training.anomaly.task
import training.anomaly.train
from neurobento.errors import ConfigError
from neurobento.networks.vgg16_autoencoder import IMAGENET_URL
from neurobento.networks.weights import load_network, read_values
from tests.training.heads import head_images
from tests.training.tiny import CPU, anomaly_run, assert_bit_equal, stop_after, weights
from training.anomaly.recipe import AnomalyRecipe
from training.anomaly.task import AnomalyTask
from training.anomaly.train import finish
from training.loop.run import Run

pytestmark = pytest.mark.usefixtures("tiny_networks")

SYNTHETIC = AnomalyRecipe(
    "anomaly_unet", "synthetic", epochs=3, batch_size=4, learning_rate=1e-2, weight_decay=0.01
)
DENOISING = dataclasses.replace(SYNTHETIC, network="denoising_autoencoder", objective="denoising")
REPORT = dataclasses.replace(
    SYNTHETIC,
    network="vgg16_autoencoder",
    objective="reconstruction",
    augment=False,
    learning_rate=2e-3,
)
COLUMNS = ("epoch", "seconds", "loss", "validation_loss", "learning_rate")
EACH = pytest.mark.parametrize("recipe", [SYNTHETIC, DENOISING, REPORT], ids=lambda r: r.objective)


def start(recipe: AnomalyRecipe, folder: Path | None = None) -> Run:
    return anomaly_run(recipe, folder)[0]


def trained(run: Run) -> nn.Module:
    """The best network of a run that has gone to its end."""
    run.train()
    return run.best_network()


def without_times(run: Run) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.log.validations]


def validating_as(run: Run, losses: Sequence[float]) -> list[dict[str, Tensor]]:
    """Let validation give these losses, the last for ever; the weights it was asked for."""
    seen: list[dict[str, Tensor]] = []

    def validate(network: nn.Module) -> float:
        seen.append(weights(network))
        return losses[min(len(seen), len(losses)) - 1]

    run.task.validate = validate  # type: ignore[method-assign]
    return seen


def test_an_encoder_of_a_network_without_one_and_a_network_for_regions_are_refused() -> None:
    with pytest.raises(ConfigError, match="anomaly_unet has no encoder") as caught:
        start(dataclasses.replace(SYNTHETIC, encoder="imagenet"))
    assert caught.value.subject == "encoder"
    with pytest.raises(ConfigError, match="a network for anomalies; found compact"):
        start(dataclasses.replace(SYNTHETIC, network="compact"))


@pytest.mark.parametrize(("train", "validation"), [(0, 2), (2, 0)])
def test_a_run_without_slices_is_refused(train: int, validation: int) -> None:
    images = head_images(0, 1)
    with pytest.raises(ConfigError, match=f"found {train} and {validation}"):
        AnomalyTask(SYNTHETIC, images[:train], images[:validation], CPU)


# --- a trajectory ---


@EACH
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_resumed_run_ends_where_a_straight_one_does(
    tmp_path: Path, recipe: AnomalyRecipe, epoch: int
) -> None:
    straight = start(recipe)
    best = trained(straight)
    first = start(recipe, tmp_path / "run")
    stop_after(first, epoch)
    assert first.step == epoch
    second = start(recipe, tmp_path / "run")
    second.resume(tmp_path / "run" / "last.pt")
    assert_bit_equal(weights(second.network), weights(first.network))
    assert_bit_equal(weights(trained(second)), weights(best))
    assert_bit_equal(weights(second.network), weights(straight.network))
    assert without_times(second) == without_times(straight)


def test_a_resumed_run_cuts_and_stops_when_a_straight_one_does(tmp_path: Path) -> None:
    recipe = dataclasses.replace(DENOISING, epochs=50, cut_after=2, stop_after=5)
    first = start(recipe, tmp_path / "run")
    validating_as(first, [1.0])
    stop_after(first, 2)
    second = start(recipe, tmp_path / "run")
    second.resume(tmp_path / "run" / "last.pt")
    validating_as(second, [1.0])
    second.train()
    rates = [row["learning_rate"] / recipe.learning_rate for row in second.log.validations]
    assert rates == [1, 1, 1, 0.5, 0.5, 0.25]


@EACH
def test_runs_of_one_seed_are_equal_and_of_another_differ(recipe: AnomalyRecipe) -> None:
    recipe = dataclasses.replace(recipe, epochs=1)
    first, same, other = (start(dataclasses.replace(recipe, seed=s)) for s in (0, 0, 1))
    found = [weights(trained(run)) for run in (first, same, other)]
    assert_bit_equal(found[0], found[1])
    assert without_times(first) == without_times(same) != without_times(other)
    assert any(not torch.equal(found[0][k], found[2][k]) for k in found[0])


@EACH
def test_training_lowers_the_loss(recipe: AnomalyRecipe) -> None:
    run = start(dataclasses.replace(recipe, epochs=4, repeats=3, augment=False))
    run.train()
    assert run.log.validations[-1]["loss"] < 0.95 * run.log.validations[0]["loss"]
    assert run.best < run.log.validations[0]["validation_loss"]


@EACH
def test_validation_draws_alike_every_time_and_teaches_nothing(recipe: AnomalyRecipe) -> None:
    run, task = anomaly_run(recipe)
    before = weights(run.network)
    with torch.inference_mode():
        values = [task.validate(run.average.module.eval()) for _ in range(2)]
    assert values[0] == values[1]
    assert_bit_equal(weights(run.network), before)


def test_each_epoch_goes_through_all_slices_as_often_as_the_recipe_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In another order each time, and augmented only where the recipe says so."""
    run, task = anomaly_run(dataclasses.replace(REPORT, repeats=2, epochs=2))
    seen: list[Tensor] = []
    real = task.objective.loss
    monkeypatch.setattr(
        task.objective, "loss", lambda n, x, *others: seen.append(x) or real(n, x, *others)
    )
    run.train()
    orders = []
    for first in (0, 4):
        images = torch.cat(seen[first : first + 3])
        known = [image.numpy().tobytes() for image in task.train_images]
        orders.append([known.index(image.numpy().tobytes()) for image in images])
        assert torch.equal(seen[first + 3], task.validation_images)
    assert all(sorted(order) == sorted([*range(6)] * 2) for order in orders)
    assert orders[0] != orders[1]


def test_a_recipe_may_augment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training slices, and not those of validation."""
    given = []
    real = training.anomaly.task.augment_slices
    monkeypatch.setattr(
        training.anomaly.task, "augment_slices", lambda x, r: given.append(len(x)) or real(x, r)
    )
    start(dataclasses.replace(REPORT, augment=True, epochs=1)).train()
    assert given == [4, 2]


def test_a_run_does_not_go_on_from_the_best_weights(tmp_path: Path) -> None:
    """They lack what the optimiser knows."""
    recipe = dataclasses.replace(DENOISING, epochs=1)
    run, task = anomaly_run(recipe, tmp_path)
    run.train()
    finish(run, task)
    with pytest.raises(ConfigError, match="the last checkpoint of a run"):
        start(recipe).resume(tmp_path / "best.pt")


# --- when it stops, and what it keeps ---


def test_a_run_stops_when_validation_stops_improving_and_keeps_the_best(tmp_path: Path) -> None:
    recipe = dataclasses.replace(DENOISING, epochs=100, stop_after=3)
    run, task = anomaly_run(recipe, tmp_path)
    seen = validating_as(run, [3.0, 1.0, 2.0, 1.0, 1.5])
    run.train()
    network, _ = finish(run, task)
    assert [row["epoch"] for row in run.log.validations] == [1, 2, 3, 4, 5]
    assert run.finished and run.best_step == 2
    assert not any(module.training for module in network.modules())
    assert_bit_equal(weights(network), seen[1])
    assert_bit_equal(weights(load_network(tmp_path / "best.pt")), seen[1])
    assert_bit_equal(weights(run.network), seen[4])


def test_a_run_ends_after_its_epochs() -> None:
    run = start(dataclasses.replace(DENOISING, epochs=2))
    validating_as(run, [3.0, 2.0, 1.0])
    run.train()
    assert run.step == 2 and run.finished


def test_the_learning_rate_is_cut_by_half_where_validation_does_not_improve() -> None:
    """After two epochs without a lower loss, and two more; an improvement counts anew."""
    run = start(dataclasses.replace(DENOISING, epochs=9, cut_after=2))
    validating_as(run, [3.0, 3.0, 2.99999, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0])
    run.train()
    rates = [row["learning_rate"] / 1e-2 for row in run.log.validations]
    assert rates == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25]


@pytest.mark.usefixtures("drawn_curves")
def test_a_finished_run_leaves_its_files_and_its_reduction_and_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of the validation slices lies above the threshold."""
    monkeypatch.setattr(training.anomaly.train, "choose_reduction", lambda *_: "maximum")
    run, task = anomaly_run(SYNTHETIC, tmp_path)
    run.train()
    network, _ = finish(run, task)
    names = {path.name.split(".tfevents")[0] for path in tmp_path.iterdir()}
    assert names == {"best.pt", "last.pt", "log.csv", "curves.png", "events.out"}
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    logged = [{k: float(v) for k, v in row.items()} for row in rows]
    assert logged == run.log.validations == read_values(tmp_path / "best.pt")["history"]
    assert read_values(tmp_path / "best.pt")["recipe"] == dataclasses.asdict(SYNTHETIC)
    kept: Any = load_network(tmp_path / "best.pt")
    assert network.reduction == kept.reduction == "maximum"
    with torch.inference_mode():
        scores = kept.detect(task.validation_images[:, None])[0].numpy()
    detection = read_values(tmp_path / "best.pt")["detection"]
    assert detection == {
        "threshold": pytest.approx(np.quantile(scores, 0.9, method="weibull"), rel=1e-4),
        "false_positive_rate": 0.1,
    }


def test_what_learns_nothing_gets_a_reduction_and_a_threshold(tmp_path: Path) -> None:
    recipe = AnomalyRecipe("mirror", "none")
    run, task = anomaly_run(recipe, tmp_path)
    assert run.finished
    run.train()
    network, detection = finish(run, task)
    assert run.log.validations == []
    kept: Any = load_network(tmp_path / "best.pt")
    assert kept.reduction == network.reduction
    assert read_values(tmp_path / "best.pt")["detection"] == detection
    start(recipe).resume(tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("network", "objective"), [("mirror", "synthetic"), ("anomaly_unet", "none")]
)
def test_what_cannot_learn_is_not_trained_nor_the_reverse(network: str, objective: str) -> None:
    with pytest.raises(ConfigError, match="nothing to learn"):
        start(AnomalyRecipe(network, objective))  # type: ignore[arg-type]


# --- the encoder ---


def test_without_an_encoder_of_others_all_of_vgg16_learns() -> None:
    run = start(dataclasses.replace(REPORT, epochs=1))
    before = weights(run.network)
    run.train()
    after = weights(run.network)
    convolutions = {k for k in before if k.startswith("features.")}
    assert len(convolutions) == 26
    assert {k for k in convolutions if torch.equal(before[k], after[k])} == set()


def test_an_encoder_from_a_file_stays_as_it_is(encoder: Path) -> None:
    """While the decoder learns; weight decay shrinks none of it."""
    recipe = dataclasses.replace(REPORT, epochs=2, encoder=str(encoder), weight_decay=0.5)
    run = start(recipe)
    before = weights(run.network)
    after = weights(trained(run))
    expected = {k: v for k, v in torch.load(encoder).items() if k.startswith("features.")}
    assert_bit_equal({k: v for k, v in after.items() if k.startswith("features.")}, expected)
    assert all(
        p.grad is None for n, p in run.network.named_parameters() if n.startswith("features.")
    )
    decoder = [k for k in after if k.startswith("decoder.")]
    assert [k for k in decoder if torch.equal(before[k], after[k])] == []


def test_a_frozen_encoder_is_asked_once_of_slices_that_stay_the_same(encoder: Path) -> None:
    """And the losses are what they would be if it were asked in every epoch."""
    recipe = dataclasses.replace(REPORT, epochs=3, encoder=str(encoder))
    (run, task), (other, other_task) = anomaly_run(recipe), anomaly_run(recipe)
    assert task.train_features is not None and len(task.train_features) == 6
    other_task.train_features = other_task.validation_features = None
    asked: list[Any] = []
    for network in (run.network, run.average.module):
        features: Any = network.get_submodule("features")
        features.register_forward_hook(lambda *given: asked.append(given))
    for _ in range(recipe.epochs):
        run.advance()
        other.advance()
    assert asked == []
    for mine, its in zip(run.log.validations, other.log.validations, strict=True):
        assert mine["loss"] == pytest.approx(its["loss"], rel=1e-4)
        assert mine["validation_loss"] == pytest.approx(its["validation_loss"], rel=1e-4)


@pytest.mark.parametrize("changes", [{"encoder": "none"}, {"augment": True}])
def test_an_encoder_whose_answers_change_is_asked_each_time(
    changes: dict[str, Any], encoder: Path
) -> None:
    _, task = anomaly_run(dataclasses.replace(REPORT, **({"encoder": str(encoder)} | changes)))
    assert task.train_features is None and task.validation_features is None


def test_a_run_with_a_frozen_encoder_resumes(tmp_path: Path, encoder: Path) -> None:
    recipe = dataclasses.replace(REPORT, encoder=str(encoder))
    straight = start(recipe)
    straight.train()
    stop_after(start(recipe, tmp_path / "run"), 1)
    second = start(recipe, tmp_path / "run")
    second.resume(tmp_path / "run" / "last.pt")
    second.train()
    assert_bit_equal(weights(second.network), weights(straight.network))


def test_no_run_starts_with_an_encoder_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with ImageNet's that cannot be downloaded, nor with a file of something else."""

    def no_network(*_: Any, **__: Any) -> Any:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="Download it elsewhere and give the file") as caught:
        start(dataclasses.replace(REPORT, encoder="imagenet"))
    assert '"none"' in str(caught.value)
    wrong = tmp_path / "wrong.pth"
    torch.save({"features.0.weight": torch.ones(8, 3, 3, 3)}, wrong)
    with pytest.raises(ConfigError, match=f"Download {IMAGENET_URL} and give that file"):
        start(dataclasses.replace(REPORT, encoder=str(wrong)))
    with pytest.raises(FileNotFoundError):
        start(dataclasses.replace(REPORT, encoder=str(tmp_path / "none.pth")))


# --- a GPU ---


@EACH
@pytest.mark.gpu
def test_a_run_on_a_gpu_sees_what_one_on_the_cpu_sees(recipe: AnomalyRecipe) -> None:
    recipe = dataclasses.replace(recipe, epochs=1, augment=True)
    here, (there, _) = start(recipe), anomaly_run(recipe, device=torch.device("cuda"))
    here.train()
    there.train()
    assert math.isclose(
        here.log.validations[0]["loss"], there.log.validations[0]["loss"], rel_tol=1e-2
    )
