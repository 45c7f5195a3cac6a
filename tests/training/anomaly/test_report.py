"""Who is asked about which slices, and what is told of the answers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import training.anomaly.detection
import training.anomaly.report
import training.anomaly.train
from neurobento.anomaly.fit import FittedSlice
from neurobento.errors import ConfigError
from neurobento.imaging.geometry import SLICE_SHAPE
from neurobento.networks.anomaly import REDUCTIONS
from tests.training.heads import head_images, write_heads
from training.anomaly.detection import judge
from training.anomaly.recipe import AnomalyRecipe
from training.anomaly.report import (
    CHOSEN,
    Method,
    collect,
    component_method,
    main,
    network_method,
    table,
)
from training.anomaly.slices import Slices
from training.loop.run import Run

MEASURES = ("auroc", "auprc", "tpr_at_10_fpr")
RECIPE = AnomalyRecipe("anomaly_unet", "synthetic", epochs=1, batch_size=4)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.anomaly.detection, "DRAWS", 100)


@pytest.fixture
def narrow_networks(tiny_networks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.anomaly.detection, "DRAWS", 5)


# --- who is asked about which slices ---


def pictures(images: Any) -> set[bytes]:
    return {image.tobytes() for image in images}


def slices_of(healthy: int = 12, tumour: int = 5, copies: int = 0) -> Slices:
    """Grey slices, each another grey; copies of the first healthy ones are a little brighter."""
    count = healthy + tumour
    grey = [*(np.arange(count) + 1) / 50, *(np.arange(copies) + 1.25) / 50]
    fitted = tuple(
        FittedSlice(np.full(SLICE_SHAPE, value, np.float32), (128, 128), (0, 0), 128)
        for value in grey
    )
    sick = np.array([*(np.arange(count) >= healthy), *[False] * copies])
    group = np.array([*range(count), *range(copies)])
    return Slices(tuple(map(str, range(len(grey)))), fitted, sick, group, {})


class Asked:
    """A method whose error maps are the slices' grey, and all that it was given."""

    def __init__(self, scale: float = 1.0, offset: float = 0.0) -> None:
        self.fits: list[dict[str, Any]] = []
        self.scale, self.offset = scale, offset

    def fit(self, train: Any, validation: Any, seed: int) -> Any:
        given = {"train": train, "validation": validation, "seed": seed, "scored": []}
        self.fits.append(given)

        def error_maps(images: Any) -> Any:
            given["scored"].append(images)
            return self.scale * images + self.offset

        return error_maps

    def method(self, key: str = "a") -> Method:
        return Method("grey", self.fit, key)


def test_no_tumour_and_no_test_slice_reaches_training(tmp_path: Path) -> None:
    slices, asked = slices_of(), Asked()
    collect(asked.method(), slices, 2, 4, tmp_path)
    healthy = pictures(slices.images[~slices.tumour])
    assert len(asked.fits) == 8
    tested: list[set[bytes]] = []
    for given in asked.fits:
        train, validation = pictures(given["train"]), pictures(given["validation"])
        assert train and validation and not train & validation
        scored = [pictures(images) for images in given["scored"]]
        assert pictures(slices.images[slices.tumour]) in scored
        test = healthy - train - validation
        assert test in scored
        assert train | validation | test == healthy
        tested.append(test)
    for repeat in (tested[:4], tested[4:]):
        assert set.union(*repeat) == healthy and sum(map(len, repeat)) == len(healthy)
    assert tested[:4] != tested[4:]
    assert len({given["seed"] for given in asked.fits}) == 8


def test_of_near_duplicates_one_takes_part(tmp_path: Path) -> None:
    slices, asked = slices_of(copies=4), Asked()
    answers = collect(asked.method(), slices, 1, 3, tmp_path).scores["mean"]
    assert answers.healthy.shape == (1, 12)
    copies = pictures(slices.images[-4:])
    for given in asked.fits:
        for images in (given["train"], given["validation"], *given["scored"]):
            assert not pictures(images) & copies


def test_answers_are_of_each_picture_in_units_of_the_validation_slices(tmp_path: Path) -> None:
    """Which scale a network's scores have does not matter."""
    slices = slices_of()
    found = collect(Asked().method(), slices, 2, 3, tmp_path / "a")
    assert list(found.scores) == [*REDUCTIONS, CHOSEN]
    assert sum(found.chosen.values()) == 6 and set(found.chosen) <= set(REDUCTIONS)
    answers = found.scores["mean"]
    assert answers.healthy.shape == (2, 12) and answers.tumour.shape == (2, 3, 5)
    assert (np.diff(answers.tumour, axis=-1) > 0).all(), "in the order of their grey"
    for repeat in range(2):
        for fold in range(3):
            mine = answers.healthy[repeat, answers.fold[repeat] == fold]
            assert len(mine) == 4 and (np.diff(mine) > 0).all()
            validation = answers.validation[repeat][fold]
            assert validation.mean() == pytest.approx(0, abs=1e-6)
            assert validation.std() == pytest.approx(1)
    other = collect(Asked(1000.0, 7.0).method(), slices, 2, 3, tmp_path / "b").scores["mean"]
    np.testing.assert_allclose(other.healthy, answers.healthy, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(other.tumour, answers.tumour, rtol=1e-5, atol=1e-5)
    assert judge(answers)["auroc"]["value"] == 1


@pytest.mark.parametrize("missing", [0, 1])
def test_answers_that_are_kept_are_not_asked_for_again(tmp_path: Path, missing: int) -> None:
    first = collect(Asked().method(), slices_of(), 2, 3, tmp_path)
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 6
    for path in kept[4 : 4 + missing]:
        path.unlink()
    asked = Asked()
    again = collect(asked.method(), slices_of(), 2, 3, tmp_path)
    assert len(asked.fits) == missing
    assert again.chosen == first.chosen
    assert np.array_equal(again.maps, first.maps)
    for name in (*REDUCTIONS, CHOSEN):
        assert np.array_equal(again.scores[name].healthy, first.scores[name].healthy)
        assert np.array_equal(again.scores[name].tumour, first.scores[name].tumour)
    assert sorted(tmp_path.iterdir()) == kept


@pytest.mark.parametrize(
    ("key", "slices", "folds", "expected"),
    [
        ("b", slices_of(), 3, 6),
        ("a", slices_of(13), 3, 6),
        ("a", slices_of(tumour=6), 3, 6),
        ("a", slices_of(), 4, 8),
        ("a", slices_of(), 3, 0),
    ],
    ids=["key", "healthy", "tumour", "folds", "nothing"],
)
def test_what_changed_is_asked_anew(
    tmp_path: Path, key: str, slices: Slices, folds: int, expected: int
) -> None:
    collect(Asked().method(), slices_of(), 2, 3, tmp_path)
    asked = Asked()
    collect(asked.method(key), slices, 2, folds, tmp_path)
    assert len(asked.fits) == expected


# --- methods ---


@pytest.mark.usefixtures("narrow_networks")
def test_a_network_answers_alike_for_a_seed() -> None:
    method = network_method(RECIPE, "cpu")
    train, validation, others = head_images(0, 1, 2, 3), head_images(4, 5), head_images(6, 7, 8)
    first, same, other = (method.fit(train, validation, seed)(others) for seed in (1, 1, 2))
    assert first.shape == (3, *SLICE_SHAPE) and first.dtype == np.float32
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "change", [{"epochs": 2}, {"learning_rate": 0.1}, {"augment": False}, {"seed": 1}]
)
def test_a_networks_key_is_its_recipes(change: dict[str, Any]) -> None:
    key = network_method(RECIPE, "cpu").key
    assert key == network_method(dataclasses.replace(RECIPE), "cuda").key
    assert key != network_method(dataclasses.replace(RECIPE, **change), "cpu").key


def test_a_networks_key_changes_with_the_encoders_file(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.pth"
    recipe = AnomalyRecipe("vgg16_autoencoder", "reconstruction", encoder=str(path))
    keys = []
    for content in (b"one", b"one", b"other"):
        path.write_bytes(content)
        keys.append(network_method(recipe, "cpu").key)
    assert keys[0] == keys[1] != keys[2]


def test_principal_components_do_not_make_what_they_did_not_see() -> None:
    random = np.random.default_rng(0)
    parts = random.random((2, *SLICE_SHAPE), np.float32)
    parts[0, :64] = parts[1, 64:] = 0

    def mixed(count: int) -> Any:
        shares = random.random((count, 2), np.float32)
        return np.einsum("ns,sij->nij", shares, parts)

    error_maps = component_method().fit(mixed(20), mixed(5), 0)
    foreign = mixed(4)
    foreign[:, 30:60, 30:60] += 1
    known, other = error_maps(mixed(6)), error_maps(foreign)
    assert known.shape == (6, *SLICE_SHAPE)
    assert known.max() < 1e-3 < 0.1 < other[:, 30:60, 30:60].mean((1, 2)).min()


# --- the command ---


def figures(auroc: float) -> dict[str, Any]:
    cell = {"value": auroc, "interval": [auroc - 0.1, auroc + 0.1]}
    at_threshold = {"false_positive_rate": 0.12, "true_positive_rate": 0.8}
    return dict.fromkeys(MEASURES, cell) | {"at_threshold": at_threshold}


def test_the_table_shows_what_was_chosen_and_every_reduction() -> None:
    by = {name: figures(0.5 + 0.05 * i) for i, name in enumerate([*REDUCTIONS, CHOSEN])}
    document = {
        "slices": 9,
        "groups": 8,
        "pictures": {"healthy": 3, "tumour": 4},
        "repeats": 2,
        "folds": 5,
        "methods": {"unet": {"chosen": {"mean": 10}, "by": by}},
        "facts": {"rows": figures(0.5)},
    }
    lines = table(document).splitlines()
    assert "9 slices, 8 different pictures, of which 3 healthy and 4 with a tumour" in lines[0]
    assert lines[4].startswith("| unet | 0.800 (0.700 to 0.900) | 0.800 (")
    assert lines[4].endswith("| 0.12, 0.80 |")
    assert lines[5].startswith("| rows | 0.500 (0.400 to 0.600) |")
    assert lines[-1] == "| unet | 0.500 | 0.550 | 0.600 | 0.650 | 0.700 | 0.750 | 0.800 |"


@pytest.mark.usefixtures("narrow_networks")
def test_the_command_compares_recipes_components_and_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not train again what it has trained."""
    configs = []
    for network, objective in (
        ("anomaly_unet", "synthetic"),
        ("vgg16_autoencoder", "reconstruction"),
    ):
        configs.append(tmp_path / f"{network}.toml")
        encoder = 'encoder = "imagenet"\n' if "vgg" in network else ""
        configs[-1].write_text(
            f'network = "{network}"\nobjective = "{objective}"\nepochs = 1\n{encoder}'
        )
    folder, output = write_heads(tmp_path / "slices", 8, 3), tmp_path / "results"
    command = [*map(str, configs), "--slices", str(folder), "--work", str(tmp_path / "work")]
    command += ["-o", str(output), "--repeats", "1", "--folds", "2", "--device", "cpu"]
    command += ["--encoder", "none"]
    assert main(command) == 0
    document = json.loads((output / "anomaly.json").read_text())
    names = {"anomaly_unet", "vgg16_autoencoder", "principal components"}
    assert set(document["methods"]) == names
    for found in document["methods"].values():
        assert set(found["by"]) == {*REDUCTIONS, CHOSEN}
    for name in ("scores.png", "failures.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    facts = {"mean intensity", "rows", "columns", "file size", "mean of what the network sees"}
    assert set(document["facts"]) == facts
    assert document["facts"]["rows"]["auroc"]["value"] == 0.5
    assert (document["slices"], document["groups"]) == (11, 11)
    assert document["pictures"] == {"healthy": 8, "tumour": 3}
    assert [recipe["encoder"] for recipe in document["recipes"]] == ["none", "none"]
    assert (output / "anomaly.md").read_text() == table(document)

    def train(*_: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr(Run, "train", train)
    # the same pictures, which take long
    monkeypatch.setattr(training.anomaly.report, "draw", lambda *_: None)
    assert main(command) == 0
    assert json.loads((output / "anomaly.json").read_text()) == document


def test_two_recipes_of_one_network_are_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "a.toml"
    recipe.write_text('network = "mirror"\nobjective = "none"\n')
    folder = write_heads(tmp_path / "slices", 6, 2)
    command = [str(recipe), str(recipe), "--slices", str(folder), "--work", str(tmp_path / "work")]
    with pytest.raises(ConfigError, match="one of each network"):
        main([*command, "-o", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()


def test_what_learns_nothing_is_judged_on_all_that_is_not_tested(tmp_path: Path) -> None:
    asked = Asked()
    method = dataclasses.replace(asked.method(), learns=False)
    found = collect(method, slices_of(), 1, 3, tmp_path)
    assert [len(each) for each in found.scores["mean"].validation[0]] == [8, 8, 8]


@pytest.mark.usefixtures("narrow_networks")
def test_the_commands_encoder_is_vgg16s_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Path
) -> None:
    """It takes nothing from others, and their answers are not asked for again."""
    seen: list[AnomalyRecipe] = []

    def watch(recipe: AnomalyRecipe, _: str) -> Method:
        seen.append(recipe)
        return dataclasses.replace(Asked().method(), name=recipe.network)

    monkeypatch.setattr(training.anomaly.report, "network_method", watch)
    monkeypatch.setattr(training.anomaly.report, "draw", lambda *_: None)
    recipes = []
    for network in ("anomaly_unet", "vgg16_autoencoder"):
        recipes.append(str(tmp_path / f"{network}.toml"))
        Path(recipes[-1]).write_text(f'network = "{network}"\nobjective = "reconstruction"\n')
    folder = write_heads(tmp_path / "slices", 6, 2)
    command = [*recipes, "--slices", str(folder), "--work", str(tmp_path / "work")]
    command += ["-o", str(tmp_path / "results"), "--repeats", "1", "--folds", "2"]
    main([*command, "--encoder", str(encoder)])
    assert [recipe.encoder for recipe in seen] == ["none", str(encoder)]
