"""Scores of scans and regions, on fake arrays and with a fake network."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import matplotlib.axes
import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurobento.errors import ConfigError
from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.labels import aal116
from training.parcellation.dataset import Pair, load_pairs, open_pairs, write_pack
from training.parcellation.evaluate import draw_regions, main, noise_ceiling, score, write_regions
from training.parcellation.scores import Scores

PNG = b"\x89PNG\r\n\x1a\n"
NAMES = [region.name for region in aal116()]


def ladder() -> Any:
    """(2, 117): background 1; region i has Dice about i / 200."""
    dice = np.arange(117) / 200 + np.array([[0.0], [0.1]])
    dice[:, 0] = 1
    return dice


def pair(name: str, labels: Any) -> Pair:
    labels = torch.from_numpy(np.asarray(labels, np.uint8))
    return Pair(name, labels[None].clone(), labels, np.eye(4), torch.zeros(3, 1, 1, 1))


class Echo(nn.Module):
    """Takes the image's grey values for labels."""

    def labels(self, image: Tensor) -> Tensor:
        return (image[:, 0] * 255).round().byte()


def test_a_network_that_gives_the_labels_scores_one() -> None:
    maps = [np.arange(117).repeat(2).reshape(2, 9, 13), np.arange(234).reshape(2, 9, 13) % 117]
    scores = score(Echo(), [pair("a", maps[0]), pair("b", maps[1])])
    assert scores.names == ("a", "b")
    assert (scores.dice == np.ones((2, 117))).all()


def test_a_networks_score_is_its_dice_with_the_labels() -> None:
    wrong = pair("a", [[[0, 1, 1, 2]]])
    wrong.labels[0, 0, 1] = 2
    dice = score(Echo(), [wrong]).dice[0]
    np.testing.assert_allclose(dice[:4], [1, 2 / 3, 2 / 3, np.nan])


def test_the_noise_ceiling_is_the_dice_of_two_label_sets() -> None:
    first = [pair("a", [[[0, 1, 1, 3]]]), pair("b", [[[0, 2, 2, 2]]])]
    second = [pair("x", [[[0, 1, 3, 3]]]), pair("y", [[[0, 2, 2, 2]]])]
    ceiling = noise_ceiling(first, second)
    assert ceiling.names == ("a", "b")
    expected = [[1, 2 / 3, np.nan, 2 / 3], [1, np.nan, 1, np.nan]]
    np.testing.assert_allclose(ceiling.dice[:, :4], expected)


def test_a_ceiling_of_unequal_sets_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        noise_ceiling([pair("a", [[[0]]]), pair("b", [[[0]]])], [pair("a", [[[0]]])])


def test_the_table_has_mean_sd_and_least_of_each_region_and_group(tmp_path: Path) -> None:
    near, far = ladder(), ladder()[:1]
    near[0, 3], far[0, 4] = np.nan, np.nan
    groups = {"near": Scores(("a", "b"), near), "far": Scores(("c",), far)}
    write_regions(tmp_path / "regions.csv", groups)
    rows = list(csv.DictReader((tmp_path / "regions.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["Background", *NAMES]
    assert [int(row["class_index"]) for row in rows] == list(range(117))
    row = rows[50]
    assert float(row["near_mean"]) == pytest.approx(near[:, 50].mean(), abs=1e-4)
    assert float(row["near_sd"]) == pytest.approx(near[:, 50].std(ddof=1), abs=1e-4)
    assert float(row["near_least"]) == pytest.approx(near[:, 50].min(), abs=1e-4)
    assert (row["far_mean"], row["far_sd"], row["far_least"]) == ("0.2500", "", "0.2500")
    assert (rows[3]["near_mean"], rows[3]["near_sd"]) == ("0.1150", "")
    assert (rows[4]["far_mean"], rows[4]["far_sd"], rows[4]["far_least"]) == ("", "", "")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names under each box plot that is drawn."""
    seen: list[list[str]] = []
    real = matplotlib.axes.Axes.boxplot

    def boxplot(self: Any, values: Any, tick_labels: list[str]) -> Any:
        assert len(values) == len(tick_labels)
        assert all(len(v) and np.isfinite(v).all() for v in values)
        seen.append(list(tick_labels))
        return real(self, values, tick_labels=tick_labels)

    monkeypatch.setattr(matplotlib.axes.Axes, "boxplot", boxplot)
    return seen


def test_the_picture_shows_the_five_best_and_the_five_worst_of_the_regions_in_a_map(
    tmp_path: Path, drawn: list[list[str]]
) -> None:
    without_one = ladder()
    without_one[:, 30] = np.nan
    for dice in (ladder(), without_one):
        draw_regions(tmp_path / "r.png", Scores(("a", "b"), dice), "title")
    assert drawn == [NAMES[:-6:-1], NAMES[:5]] * 2
    assert (tmp_path / "r.png").read_bytes().startswith(PNG)


def write_pair(folder: Path, name: str, labels: Any) -> None:
    """Labels whose image, to the fake network, says the same labels."""
    folder.mkdir(parents=True, exist_ok=True)
    image = labels.astype(np.float32) / 255
    nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"{name}_image.nii.gz")
    nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / f"{name}_labels.nii.gz")
    positions = nib.Nifti1Image(np.zeros((46, 61, 62, 3), np.float32), np.eye(4))
    nib.save(positions, folder / f"{name}_positions.nii.gz")


def write_checkpoint(path: Path, **test: tuple[str, ...]) -> None:
    """A checkpoint whose recipe names these test groups."""
    data = {"train": ("c/s*",), "validation": ("c/v*",), "test": test}
    values = {"format": 1, "recipe": {"network": "compact", "data": data}, "average": {}}
    torch.save(values, path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pairs c/s1, c/v1, c/t1 and c/t2, and second labels that differ in t2."""
    x, y, z = np.indices(NETWORK_SHAPE, sparse=True)
    maps = [((x // 4 + 3 * (y // 4) + z // 8 + i) % 117).astype(np.uint8) for i in range(2)]
    root = tmp_path_factory.mktemp("labelled")
    pairs, second = root / "pairs" / "c", root / "second"
    for name, labels in zip(("t1", "t2", "v1", "s1"), (*maps, *maps), strict=True):
        write_pair(pairs, name, labels)
    write_pair(second, "t1", maps[0])
    write_pair(second, "t2", maps[0])
    return pairs.parent, second


def test_the_command_evaluates_the_test_groups_of_the_checkpoints_own_recipe(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurobento.networks.weights.build", lambda _: Echo())
    write_checkpoint(tmp_path / "best.pt", near=("c/t*",))
    (pairs, second), out = folders, tmp_path / "out"
    command = [str(tmp_path / "best.pt"), "--pairs", str(pairs), "-o", str(out)]
    assert main([*command, "--second-labels", str(second)]) == 0
    result = json.loads((out / "evaluation.json").read_text())
    assert result["groups"]["near"]["scans"] == {"c/t1": 1.0, "c/t2": 1.0}
    ceiling = result["groups"]["noise_ceiling"]["scans"]
    assert ceiling["c/t1"] == 1.0 and ceiling["c/t2"] < 0.1
    assert result["training_scans"] == 1
    assert set(result["summary"]) == {"near", "noise_ceiling"}
    assert (out / "regions.csv").is_file() and (out / "regions.png").is_file()


def test_a_pack_is_evaluated_as_its_folder_is(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurobento.networks.weights.build", lambda _: Echo())
    write_checkpoint(tmp_path / "best.pt", near=("c/t*",))
    source, pack = open_pairs(folders[0]), tmp_path / "pairs.npz"
    write_pack(pack, load_pairs(source, source.names()))
    found = []
    for pairs in (folders[0], pack):
        out = tmp_path / f"{pairs.name}-out"
        assert main([str(tmp_path / "best.pt"), "--pairs", str(pairs), "-o", str(out)]) == 0
        found.append(json.loads((out / "evaluation.json").read_text())["groups"])
    assert found[0] == found[1]


def test_a_recipe_without_test_scans_is_refused(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    write_checkpoint(tmp_path / "best.pt")
    command = [str(tmp_path / "best.pt"), "--pairs", str(folders[0]), "-o", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match="expected a recipe with test scans; found none"):
        main(command)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [[], ["best.pt", "--report", "models/compact"]])
def test_the_command_takes_either_a_checkpoint_or_models(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--pairs", "pairs", "-o", "out", *given])
    assert caught.value.code == 2
    assert "give either a checkpoint or --report with models" in capsys.readouterr().err


def test_models_go_to_the_report_with_every_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def write_report(*args: Any, **options: Any) -> str:
        seen.extend((args, options))
        return "# The report"

    monkeypatch.setattr("training.studies.network_report.write_report", write_report)
    options = ["--truth", "labels", "--cache", "kept", "--second-labels", "again"]
    options += ["--split", "split.toml", "--groups", "x", "y"]
    assert main(["--report", "a", "b", "--pairs", "pairs", "-o", "out", *options]) == 0
    assert seen[0] == ([Path("a"), Path("b")], Path("pairs"), Path("out"))
    assert seen[1] == {
        "second_labels": Path("again"),
        "truth": Path("labels"),
        "cache": Path("kept"),
        "split_file": Path("split.toml"),
        "groups": ["x", "y"],
    }
    assert capsys.readouterr().out == "# The report\n"
