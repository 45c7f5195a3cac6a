"""Laws of a training run on healthy slices, with narrow networks."""

from __future__ import annotations

import csv
import dataclasses
import math
import time
import urllib.error
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import neurobento.networks.vgg16_autoencoder
import neurobento.networks.weights
import training.anomaly.train
from neurobento.errors import ConfigError
from neurobento.networks import ANOMALY_PRESETS
from neurobento.networks.anomaly_unet import AnomalyUNet
from neurobento.networks.denoising_autoencoder import DenoisingAutoencoder
from neurobento.networks.mirror import Mirror
from neurobento.networks.vgg16_autoencoder import IMAGENET_URL, VGG16Autoencoder
from neurobento.networks.weights import load_network, read_values
from tests.training.heads import draw_head, head_images, write_heads
from training.anomaly.figures import draw_examples
from training.anomaly.slices import read_slices
from training.anomaly.train import FIELDS, AnomalyRecipe, AnomalyRun, main, read_anomaly_recipe

CONFIGS = Path(training.anomaly.train.__file__).parents[1] / "configs"
PNG = b"\x89PNG\r\n\x1a\n"
WIDTHS = (4, 4, 4, 4, 4, 4)

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
ALL = pytest.mark.parametrize("recipe", [SYNTHETIC, DENOISING, REPORT], ids=lambda r: r.objective)

TOML = """
network = "anomaly_unet"
objective = "synthetic"
epochs = 7
learning_rate = 1
augment = false
"""


def narrow_network(preset: str) -> nn.Module:
    if preset == "mirror":
        return Mirror()
    if preset == "anomaly_unet":
        return AnomalyUNet(WIDTHS)
    if preset == "denoising_autoencoder":
        return DenoisingAutoencoder(WIDTHS)
    return VGG16Autoencoder() if preset == "vgg16_autoencoder" else nn.Conv2d(1, 1, 1)


@pytest.fixture(autouse=True)
def narrow_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = neurobento.networks.vgg16_autoencoder
    monkeypatch.setattr(module, "LEVELS", tuple((8,) * len(level) for level in module.LEVELS))
    monkeypatch.setattr(module, "DECODER", (8,) * 5)
    monkeypatch.setattr(training.anomaly.train, "build", narrow_network)
    monkeypatch.setattr(neurobento.networks.weights, "build", narrow_network)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A file as torchvision's is: of VGG16's convolutions, and of its classifier."""
    torch.manual_seed(99)
    features = {f"features.{k}": v for k, v in VGG16Autoencoder().features.state_dict().items()}
    path = tmp_path / "vgg16.pth"
    torch.save({**features, "classifier.0.weight": torch.ones(3, 3)}, path)
    return path


def start(recipe: AnomalyRecipe, folder: Path | None = None, device: str = "cpu") -> AnomalyRun:
    if folder is not None:
        folder.mkdir(exist_ok=True)
    train, validation = head_images(*range(6)), head_images(6, 7, 8)
    return AnomalyRun(recipe, train, validation, device, folder)


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in network.state_dict().items() if isinstance(v, Tensor)}


def assert_bit_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [k for k in first if not torch.equal(first[k], second[k])] == []


def without_times(run: AnomalyRun) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.history]


def stop_after(run: AnomalyRun, epoch: int) -> None:
    """Train until an epoch by letting the clock jump past the time limit."""
    real = time.perf_counter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            time, "perf_counter", lambda: real() + (1e6 if len(run.history) >= epoch else 0)
        )
        run.train(minutes=1000)


def validating_as(run: AnomalyRun, losses: Sequence[float]) -> list[dict[str, Tensor]]:
    """Let validation give these losses, the last for ever; the weights it was asked for."""
    seen: list[dict[str, Tensor]] = []

    def validate() -> float:
        seen.append(weights(run.network))
        return losses[min(len(seen), len(losses)) - 1]

    run._validate = validate  # type: ignore[method-assign]
    return seen


# --- recipes ---


def test_there_is_a_recipe_for_each_network() -> None:
    names = ("report_autoencoder", "anomaly_unet", "denoising_autoencoder", "mirror")
    recipes = [read_anomaly_recipe(CONFIGS / f"{name}.toml") for name in names]
    assert {recipe.network for recipe in recipes} == {*ANOMALY_PRESETS}
    assert {r.objective for r in recipes} == {"reconstruction", "synthetic", "denoising", "none"}


def test_the_reports_recipe_says_what_the_report_chose() -> None:
    recipe = read_anomaly_recipe(CONFIGS / "report_autoencoder.toml")
    assert (recipe.network, recipe.encoder) == ("vgg16_autoencoder", "imagenet")
    assert (recipe.objective, recipe.epochs) == ("reconstruction", 100)
    assert (recipe.augment, recipe.weight_decay, recipe.repeats) == (False, 0, 1)


def test_a_recipe_says_what_its_file_says(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(TOML)
    expected = AnomalyRecipe(
        "anomaly_unet", "synthetic", epochs=7, learning_rate=1.0, augment=False
    )
    assert read_anomaly_recipe(path) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('network = "anomaly_unet"\n', ""),
        ("epochs = 7", "epoch = 7"),
        ("epochs = 7", "epochs = 7.5"),
        ('"synthetic"', '"supervised"'),
        ("augment = false", "augment = 0"),
        ("learning_rate = 1", 'learning_rate = "fast"'),
        ("epochs = 7", "epochs = "),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(TOML.replace(old, new))
    with pytest.raises(ConfigError, match="a recipe with network and objective") as caught:
        read_anomaly_recipe(path)
    assert caught.value.subject == str(path)


@pytest.mark.parametrize("key", ["epochs", "repeats", "batch_size", "cut_after", "stop_after"])
def test_a_run_without_an_epoch_or_a_slice_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} of at least 1; found 0"):
        dataclasses.replace(SYNTHETIC, **{key: 0})


def test_an_encoder_of_a_network_without_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="only vgg16_autoencoder has one") as caught:
        dataclasses.replace(SYNTHETIC, encoder="imagenet")
    assert caught.value.subject == "encoder"


@pytest.mark.parametrize(("train", "validation"), [(0, 2), (2, 0)])
def test_a_run_without_slices_is_refused(train: int, validation: int) -> None:
    images = head_images(0, 1)
    with pytest.raises(ConfigError, match=f"found {train} and {validation}"):
        AnomalyRun(SYNTHETIC, images[:train], images[:validation])


def test_a_network_for_regions_is_refused() -> None:
    with pytest.raises(ConfigError, match="a network for anomalies; found compact"):
        start(dataclasses.replace(SYNTHETIC, network="compact"))


# --- a trajectory ---


@ALL
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_resumed_run_ends_where_a_straight_one_does(
    tmp_path: Path, recipe: AnomalyRecipe, epoch: int
) -> None:
    straight = start(recipe)
    best = straight.train()
    first = start(recipe, tmp_path / "run")
    stop_after(first, epoch)
    assert len(first.history) == epoch
    second = start(recipe, tmp_path / "run")
    second.resume(tmp_path / "run" / "last.pt")
    assert_bit_equal(weights(second.network), weights(first.network))
    assert_bit_equal(weights(second.train()), weights(best))
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
    rates = [row["learning_rate"] / recipe.learning_rate for row in second.history]
    assert rates == [1, 1, 1, 0.5, 0.5, 0.25]


@ALL
def test_runs_of_one_seed_are_equal_and_of_another_differ(recipe: AnomalyRecipe) -> None:
    recipe = dataclasses.replace(recipe, epochs=1)
    first, same, other = (start(dataclasses.replace(recipe, seed=s)) for s in (0, 0, 1))
    found = [weights(run.train()) for run in (first, same, other)]
    assert_bit_equal(found[0], found[1])
    assert without_times(first) == without_times(same) != without_times(other)
    assert any(not torch.equal(found[0][k], found[2][k]) for k in found[0])


@ALL
def test_training_lowers_the_loss(recipe: AnomalyRecipe) -> None:
    run = start(dataclasses.replace(recipe, epochs=4, repeats=3, augment=False))
    run.train()
    assert run.history[-1]["loss"] < 0.95 * run.history[0]["loss"]
    assert run.best_row["validation_loss"] < run.history[0]["validation_loss"]


@ALL
def test_validation_draws_alike_every_time_and_teaches_nothing(recipe: AnomalyRecipe) -> None:
    run = start(recipe)
    before = weights(run.network)
    assert run._validate() == run._validate()
    assert_bit_equal(weights(run.network), before)


def test_each_epoch_goes_through_all_slices_as_often_as_the_recipe_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In another order each time, and augmented only where the recipe says so."""
    run = start(dataclasses.replace(REPORT, repeats=2, epochs=2))
    seen: list[Tensor] = []
    real = run._loss
    monkeypatch.setattr(run, "_loss", lambda x, *others: seen.append(x) or real(x, *others))
    run.train()
    orders = []
    for first in (0, 4):
        images = torch.cat(seen[first : first + 3])
        known = [image.numpy().tobytes() for image in run.train_images]
        orders.append([known.index(image.numpy().tobytes()) for image in images])
        assert torch.equal(seen[first + 3], run.validation_images)
    assert all(sorted(order) == sorted([*range(6)] * 2) for order in orders)
    assert orders[0] != orders[1]


def test_a_recipe_may_augment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training slices, and not those of validation."""
    given = []
    real = training.anomaly.train.augment_slices
    monkeypatch.setattr(
        training.anomaly.train, "augment_slices", lambda x, r: given.append(len(x)) or real(x, r)
    )
    start(dataclasses.replace(REPORT, augment=True, epochs=1)).train()
    assert given == [4, 2]


def test_no_time_is_no_epoch() -> None:
    run = start(SYNTHETIC)
    run.train(minutes=0)
    assert run.history == [] and not run.finished


def test_a_time_limit_leaves_a_checkpoint(tmp_path: Path) -> None:
    run = start(dataclasses.replace(DENOISING, epochs=1000), tmp_path)
    stop_after(run, 1)
    assert not run.finished
    assert [row["epoch"] for row in read_values(tmp_path / "last.pt")["history"]] == [1]


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    start(dataclasses.replace(DENOISING, epochs=1), tmp_path).train()
    other = start(DENOISING)
    before = weights(other.network)
    with pytest.raises(ConfigError, match="a run of this recipe; found another"):
        other.resume(tmp_path / "last.pt")
    assert_bit_equal(weights(other.network), before)


def test_a_run_does_not_go_on_from_the_best_weights(tmp_path: Path) -> None:
    """They lack what the optimiser knows."""
    recipe = dataclasses.replace(DENOISING, epochs=1)
    start(recipe, tmp_path).train()
    with pytest.raises(ConfigError, match="the last checkpoint of a run"):
        start(recipe).resume(tmp_path / "best.pt")


# --- when it stops, and what it keeps ---


def test_a_run_stops_when_validation_stops_improving_and_keeps_the_best(tmp_path: Path) -> None:
    recipe = dataclasses.replace(DENOISING, epochs=100, stop_after=3)
    run = start(recipe, tmp_path)
    seen = validating_as(run, [3.0, 1.0, 2.0, 1.0, 1.5])
    network = run.train()
    assert [row["epoch"] for row in run.history] == [1, 2, 3, 4, 5]
    assert run.finished and run.best_row["epoch"] == 2
    assert not any(module.training for module in network.modules())
    assert_bit_equal(weights(network), seen[1])
    assert_bit_equal(weights(load_network(tmp_path / "best.pt")), seen[1])
    assert_bit_equal(weights(run.network), seen[4])


def test_a_run_ends_after_its_epochs() -> None:
    run = start(dataclasses.replace(DENOISING, epochs=2))
    validating_as(run, [3.0, 2.0, 1.0])
    run.train()
    assert len(run.history) == 2 and run.finished


def test_the_learning_rate_is_cut_by_half_where_validation_does_not_improve() -> None:
    """After two epochs without a lower loss, and two more; an improvement counts anew."""
    run = start(dataclasses.replace(DENOISING, epochs=9, cut_after=2))
    validating_as(run, [3.0, 3.0, 2.99999, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0])
    run.train()
    rates = [row["learning_rate"] / 1e-2 for row in run.history]
    assert rates == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_a_finished_run_leaves_its_files(tmp_path: Path) -> None:
    run = start(SYNTHETIC, tmp_path)
    run.train()
    assert {path.name for path in tmp_path.iterdir()} == {"best.pt", "last.pt", "log.csv"}
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == FIELDS
    logged = [{k: float(v) for k, v in row.items()} for row in rows]
    assert logged == run.history == read_values(tmp_path / "best.pt")["history"]
    assert read_values(tmp_path / "best.pt")["recipe"] == dataclasses.asdict(SYNTHETIC)


def test_the_reduction_and_the_threshold_travel_with_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of the validation slices lies above it."""
    monkeypatch.setattr(training.anomaly.train, "choose_reduction", lambda *_: "maximum")
    run = start(SYNTHETIC, tmp_path)
    trained = run.train()
    kept: Any = load_network(tmp_path / "best.pt")
    assert trained.reduction == kept.reduction == "maximum"
    with torch.inference_mode():
        scores = kept.detect(run.validation_images[:, None])[0].numpy()
    detection = read_values(tmp_path / "best.pt")["detection"]
    assert detection == {
        "threshold": pytest.approx(np.quantile(scores, 0.9, method="weibull"), rel=1e-4),
        "false_positive_rate": 0.1,
    }


def test_what_learns_nothing_gets_a_reduction_and_a_threshold(tmp_path: Path) -> None:
    recipe = AnomalyRecipe("mirror", "none")
    run = start(recipe, tmp_path)
    assert run.finished
    network = run.train()
    assert run.history == []
    kept: Any = load_network(tmp_path / "best.pt")
    assert kept.reduction == network.reduction
    assert read_values(tmp_path / "best.pt")["detection"] == run.detection
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
    after = weights(run.train())
    expected = {k: v for k, v in torch.load(encoder).items() if k.startswith("features.")}
    assert_bit_equal({k: v for k, v in after.items() if k.startswith("features.")}, expected)
    assert all(p.grad is None for p in run.network.features.parameters())
    decoder = [k for k in after if k.startswith("decoder.")]
    assert [k for k in decoder if torch.equal(before[k], after[k])] == []


def test_a_frozen_encoder_is_asked_once_of_slices_that_stay_the_same(encoder: Path) -> None:
    """And the losses are what they would be if it were asked in every epoch."""
    recipe = dataclasses.replace(REPORT, epochs=3, encoder=str(encoder))
    run, other = start(recipe), start(recipe)
    assert run.train_features is not None and len(run.train_features) == 6
    other.train_features = other.validation_features = None
    asked: list[Any] = []
    run.network.features.register_forward_hook(lambda *given: asked.append(given))
    for _ in range(recipe.epochs):
        run._epoch()
        other._epoch()
    assert asked == []
    for mine, its in zip(run.history, other.history, strict=True):
        assert mine["loss"] == pytest.approx(its["loss"], rel=1e-4)
        assert mine["validation_loss"] == pytest.approx(its["validation_loss"], rel=1e-4)


@pytest.mark.parametrize("changes", [{"encoder": "none"}, {"augment": True}])
def test_an_encoder_whose_answers_change_is_asked_each_time(
    changes: dict[str, Any], encoder: Path
) -> None:
    run = start(dataclasses.replace(REPORT, **({"encoder": str(encoder)} | changes)))
    assert run.train_features is None and run.validation_features is None


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


# --- the command ---


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Recipe, training and validation slices of every run that the command starts."""
    seen: list[Any] = []

    class Watched(AnomalyRun):
        def __init__(self, recipe: AnomalyRecipe, train: Any, validation: Any, *more: Any) -> None:
            seen.append((recipe, train, validation))
            super().__init__(recipe, train, validation, *more)

    monkeypatch.setattr(training.anomaly.train, "AnomalyRun", Watched)
    return seen


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Its arguments for a short run; one of ten healthy pictures is there twice."""
    folder = write_heads(tmp_path / "slices", 10, 3)
    Image.fromarray(draw_head(3)).resize((200, 220)).save(folder / "no" / "again.png")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'network = "vgg16_autoencoder"\nobjective = "reconstruction"\nepochs = 1\nseed = 3\n'
    )
    return [str(recipe), "--slices", str(folder), "-o", str(tmp_path / "run"), "--device", "cpu"]


def pictures(images: Any) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_the_command_leaves_weights_log_and_figures(command: list[str], tmp_path: Path) -> None:
    assert main(command) == 0
    run = tmp_path / "run"
    names = {"best.pt", "last.pt", "log.csv", "curves.png", "examples.png"}
    assert {path.name for path in run.iterdir()} == names
    assert all((run / name).read_bytes().startswith(PNG) for name in names if "png" in name)


def test_the_command_trains_and_validates_with_healthy_pictures_alone(
    command: list[str], tmp_path: Path, started: list[Any]
) -> None:
    """A fifth of them validates; a picture that comes twice takes part once."""
    Image.fromarray(draw_head(9)).resize((200, 220)).save(tmp_path / "slices/yes/healthy.png")
    slices = read_slices(tmp_path / "slices")
    main(command)
    ((_, train, validation),) = started
    assert pictures(train) & pictures(validation) == set()
    names = dict(zip((image.tobytes() for image in slices.images), slices.names, strict=True))
    used = {names[each] for each in pictures(train) | pictures(validation)}
    once_healthy = {f"no/{i:02d}.png" for i in range(9)}
    assert used == once_healthy, "also without the one that is in both folders"
    assert (len(train), len(validation)) == (7, 2)


def test_the_command_takes_another_encoder_than_the_recipes(
    command: list[str], started: list[Any], encoder: Path, tmp_path: Path
) -> None:
    main([*command, "--encoder", str(encoder)])
    assert started[0][0].encoder == str(encoder)
    found = read_values(tmp_path / "run" / "best.pt")["average"]
    expected = torch.load(encoder)["features.0.weight"]
    assert torch.equal(found["features.0.weight"], expected)


def test_the_command_goes_on(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(command)
    first = (tmp_path / "run" / "log.csv").read_text()
    epochs = []
    real = AnomalyRun._epoch
    monkeypatch.setattr(AnomalyRun, "_epoch", lambda run: epochs.append(1) or real(run))
    assert main([*command, "--resume"]) == 0
    assert epochs == [], "the run was finished"
    assert (tmp_path / "run" / "log.csv").read_text() == first
    with pytest.raises(FileNotFoundError):
        main([*command[:4], str(tmp_path / "other"), *command[5:], "--resume"])


@ALL
def test_examples_show_slices_what_the_network_makes_of_them_and_errors(
    recipe: AnomalyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network that gives logits its probabilities."""
    from matplotlib.axes import Axes

    shown: list[Any] = []
    real = Axes.imshow
    monkeypatch.setattr(Axes, "imshow", lambda axes, x, **k: shown.append(x) or real(axes, x, **k))
    network: Any = narrow_network(recipe.network).eval()
    images = head_images(0, 1, 2)
    draw_examples(network, images, tmp_path / "examples.png")
    assert (tmp_path / "examples.png").read_bytes().startswith(PNG)
    assert {value.shape for value in shown} == {(128, 128)} and len(shown) == 9
    assert np.array_equal(shown[:3], images)
    with torch.inference_mode():
        batch = torch.from_numpy(images)[:, None]
        made = network(batch).reshape(3, 128, 128)
        errors = network.error_map(batch)
    made = made.sigmoid() if recipe is SYNTHETIC else made
    np.testing.assert_allclose(shown[3:6], made.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shown[6:], errors.numpy(), rtol=1e-5, atol=1e-6)


# --- a GPU ---


@ALL
@pytest.mark.gpu
def test_a_run_on_a_gpu_sees_what_one_on_the_cpu_sees(recipe: AnomalyRecipe) -> None:
    recipe = dataclasses.replace(recipe, epochs=1, augment=True)
    here, there = start(recipe), start(recipe, device="cuda")
    here.train()
    there.train()
    assert math.isclose(here.history[0]["loss"], there.history[0]["loss"], rel_tol=1e-2)
