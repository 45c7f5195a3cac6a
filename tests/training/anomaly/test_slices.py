"""Folders of slices: their classes, near-duplicates in one group, folds that keep groups whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neurobento.anomaly.fit import FittedSlice
from neurobento.errors import ConfigError, UnknownFormat
from neurobento.imaging.geometry import SLICE_SHAPE
from tests.training.heads import draw_head, write_heads
from training.anomaly.slices import SAME_PICTURE, Slices, _groups, folds_of, read_slices


def slices_of(group: list[int], tumour: list[bool]) -> Slices:
    fitted = FittedSlice(np.zeros(SLICE_SHAPE, np.float32), SLICE_SHAPE, (0, 0), 128)
    names = tuple(str(i) for i in range(len(group)))
    return Slices(names, (fitted,) * len(group), np.array(tumour), np.array(group), {})


# --- folders ---


@pytest.mark.parametrize("names", [("no", "yes"), ("normal", "tumor"), ("no", "tumor")])
def test_a_slices_folder_says_its_class_and_slices_are_on_the_networks_grid(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    slices = read_slices(write_heads(tmp_path, 2, 3, names))
    no, yes = names
    assert slices.names == (
        *(f"{no}/0{i}.png" for i in range(2)),
        *(f"{yes}/0{i}.png" for i in range(3)),
    )
    assert slices.tumour.tolist() == [False, False, True, True, True]
    images = slices.images
    assert (images.shape, images.dtype) == ((5, *SLICE_SHAPE), np.float32)
    assert images.min() == 0 and images.max() == 1


def test_facts_are_of_the_file_and_not_of_what_the_network_sees(tmp_path: Path) -> None:
    write_heads(tmp_path, 1, 1)
    path = tmp_path / "no" / "00.png"
    wide = np.pad(draw_head(0), ((0, 0), (30, 10)))
    Image.fromarray(wide).save(path)
    facts = read_slices(tmp_path).facts
    assert facts["rows"].tolist() == [150, 150]
    assert facts["columns"].tolist() == [170, 130]
    assert facts["file size"][0] == path.stat().st_size
    assert facts["mean intensity"][0] == pytest.approx(wide.mean(), rel=1e-5)


def test_what_is_in_folders_within_is_no_slice(tmp_path: Path) -> None:
    write_heads(tmp_path, 1, 1)
    (tmp_path / "no" / "more").mkdir()
    assert len(read_slices(tmp_path).names) == 2


@pytest.mark.parametrize(
    ("made", "missing"),
    [((), "no or normal"), (("no",), "yes or tumor"), (("tumor",), "no or normal")],
)
def test_a_missing_folder_is_named(tmp_path: Path, made: tuple[str, ...], missing: str) -> None:
    for name in made:
        (tmp_path / name).mkdir()
        Image.fromarray(draw_head(0)).save(tmp_path / name / "0.png")
    with pytest.raises(ConfigError, match=f"a folder {missing} with slices in it") as caught:
        read_slices(tmp_path)
    assert caught.value.subject == str(tmp_path)


def test_an_empty_folder_is_a_missing_one(tmp_path: Path) -> None:
    write_heads(tmp_path, 1, 0)
    with pytest.raises(ConfigError, match="a folder yes or tumor with slices in it"):
        read_slices(tmp_path)


def test_a_slice_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_heads(tmp_path, 1, 1)
    path = tmp_path / "yes" / "notes.txt"
    path.write_text("no picture")
    with pytest.raises(UnknownFormat) as caught:
        read_slices(tmp_path)
    assert caught.value.subject == str(path)


# --- near-duplicates ---


def again(kind: str) -> tuple[Image.Image, dict[str, Any]]:
    """The head of seed 0 as it may come a second time, and how it is saved."""
    head = Image.fromarray(draw_head(0))
    if kind == "resized":
        return head.resize((260, 300), Image.Resampling.BICUBIC), {}
    if kind == "smaller":
        return head.resize((65, 75), Image.Resampling.BILINEAR), {}
    if kind == "recompressed":
        return head, {"format": "JPEG", "quality": 30}
    if kind == "colour":
        return head.convert("RGB"), {}
    if kind == "darker":
        return head.point([value // 2 for value in range(256)]), {}
    return Image.fromarray(np.asarray(head, np.uint16) * 200), {}


@pytest.mark.parametrize(
    "kind", ["resized", "smaller", "recompressed", "colour", "darker", "16 bits"]
)
def test_a_picture_that_comes_again_is_in_the_same_group(tmp_path: Path, kind: str) -> None:
    """And heads of other seeds are not."""
    write_heads(tmp_path, 4, 3)
    picture, options = again(kind)
    picture.save(tmp_path / "no" / "again.png", **({"format": "PNG"} | options))
    slices = read_slices(tmp_path)
    place = slices.names.index("no/again.png")
    assert np.flatnonzero(slices.group == slices.group[place]).tolist() == [0, place]
    assert len(np.unique(slices.group)) == 7


@pytest.mark.parametrize(("bits", "groups"), [(SAME_PICTURE, 1), (SAME_PICTURE + 1, 2)])
def test_hashes_of_one_picture_differ_in_few_bits(bits: int, groups: int) -> None:
    first = np.zeros(64, bool)
    assert len(np.unique(_groups([first, np.arange(64) < bits]))) == groups


def test_what_equals_a_picture_over_another_is_in_its_group() -> None:
    """The first and the last differ by more bits than one picture's hashes do."""
    hashes = [np.arange(64) < n * SAME_PICTURE for n in range(3)]
    alone = np.arange(64) >= 32
    assert _groups([*hashes, alone]).tolist() == [0, 0, 0, 1]


def test_one_of_each_is_the_first_of_each_group_of_one_class() -> None:
    """A picture that is in both folders says nothing."""
    group = [0, 1, 0, 2, 1, 3, 3, 2]
    tumour = [False, False, False, False, True, True, True, False]
    assert slices_of(group, tumour).one_of_each().tolist() == [0, 3, 5]


# --- folds ---


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("folds", [2, 5])
def test_folds_keep_groups_together(folds: int, seed: int) -> None:
    group = np.random.default_rng(7).integers(0, 23, 60) * 3
    fold = folds_of(group, folds, seed)
    assert set(fold.tolist()) == set(range(folds))
    assert all(len(set(fold[group == g].tolist())) == 1 for g in np.unique(group))


def test_folds_have_about_as_many_groups_each_and_follow_from_the_seed() -> None:
    fold = folds_of(np.arange(23), 5, 0)
    assert sorted(np.bincount(fold).tolist()) == [4, 4, 5, 5, 5]
    first, same, other = (folds_of(np.arange(50), 5, seed).tolist() for seed in (1, 1, 2))
    assert first == same != other


# --- the Kaggle set ---


@pytest.mark.shared
def test_kaggles_slices_are_202_pictures_and_their_mean_tells_nothing(shared: Path) -> None:
    from sklearn.metrics import roc_auc_score

    slices = read_slices(shared / "data" / "kaggle253")
    assert (len(slices.names), int(slices.tumour.sum())) == (253, 155)
    chosen = slices.one_of_each()
    tumour = slices.tumour[chosen]
    assert len(np.unique(slices.group)) == len(chosen) == 202
    assert (int((~tumour).sum()), int(tumour.sum())) == (76, 126)
    means = slices.images[chosen].mean((1, 2))
    assert 0.4 < roc_auc_score(tumour, means) < 0.6
