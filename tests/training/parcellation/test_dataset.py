"""Splits name every scan once; pairs come back as they were written, from folder and pack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from neurobento.errors import ConfigError
from neurobento.imaging.geometry import NETWORK_SHAPE
from training.parcellation.dataset import (
    Pair,
    PairSource,
    find_split,
    load_pairs,
    open_pairs,
    write_pack,
)

AFFINE = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.125]), [-60, -75, -45])
NAMES = ["a/s1", "a/s2", "a/s3", "b/s1", "b/s2"]
KINDS = ("image", "labels", "positions")


def small_pair(name: str, seed: int = 0) -> Pair:
    """Noise, with positions as far apart as a scan's corners can be."""
    random = np.random.default_rng(seed)
    image, labels = random.integers(0, 256, (5, 6, 7)), random.integers(0, 117, (5, 6, 7))
    positions = random.uniform(-300, 300, (3, 3, 3, 4)).astype(np.float32)
    return Pair(
        name,
        torch.from_numpy(image.astype(np.uint8))[None],
        torch.from_numpy(labels.astype(np.uint8)),
        random.normal(size=(4, 4)),
        torch.from_numpy(positions),
    )


@pytest.fixture(params=["folder", "pack"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> PairSource:
    """The same names in a folder and in a pack; in the folder the files are empty."""
    if request.param == "pack":
        write_pack(tmp_path / "pairs.npz", [small_pair(name) for name in reversed(NAMES)])
        return open_pairs(tmp_path / "pairs.npz")
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        for kind in (*KINDS, "registered"):
            (tmp_path / f"{name}_{kind}.nii.gz").touch()
    return open_pairs(tmp_path)


def write_pair(folder: Path, name: str, *arrays: Any) -> None:
    for kind, array in zip(KINDS, arrays, strict=True):
        nib.save(nib.Nifti1Image(array, AFFINE), folder / f"{name}_{kind}.nii.gz")


def ramp_pair() -> tuple[Any, Any, Any]:
    """All 256 grey values, all 117 classes, and positions: different along each axis."""
    x, y, z = np.indices(NETWORK_SHAPE, sparse=True)
    image = (x + 2 * y + 3 * z) % 256 / np.float32(255)
    labels = ((x + 3 * y + z) % 117).astype(np.uint8)
    blocks = np.moveaxis(np.indices((46, 61, 62)), 0, -1) * np.float32([1.5, 2.5, -1.25])
    return image.astype(np.float32), labels, blocks


def test_a_split_holds_the_names_its_patterns_match(source: PairSource) -> None:
    split = find_split(source, ["a/s[12]"], ["a/s3"], {"x": ["b/s1"], "y": ["b/*2"]})
    assert split.train == ("a/s1", "a/s2")
    assert split.validation == ("a/s3",)
    assert split.test == {"x": ("b/s1",), "y": ("b/s2",)}


def test_names_come_once_in_the_order_of_patterns_then_of_the_alphabet(source: PairSource) -> None:
    assert find_split(source, ["b/*", "a/*"], [], {}).train == (
        *("b/s1", "b/s2"),
        *("a/s1", "a/s2", "a/s3"),
    )
    assert find_split(source, ["a/*", "a/s1"], [], {}).train == ("a/s1", "a/s2", "a/s3")


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        (["a/*"], ["a/s3"], {}),
        (["a/*"], ["b/*"], {"x": ["a/s3"]}),
        (["b/*"], ["a/*"], {"x": ["a/s3"]}),
        (["b/*"], ["a/s1"], {"x": ["a/s3"], "y": ["a/s[23]"]}),
    ],
    ids=["train-validation", "train-test", "validation-test", "test-test"],
)
def test_a_scan_in_two_parts_is_refused(
    source: PairSource, train: list[str], validation: list[str], test: dict[str, list[str]]
) -> None:
    with pytest.raises(ConfigError, match="every scan in one part") as caught:
        find_split(source, train, validation, test)
    assert caught.value.found == "a/s3 in two"


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_pattern_that_matches_nothing_is_refused(source: PairSource, part: str) -> None:
    parts: dict[str, list[str]] = {"train": ["a/s1"], "validation": ["a/s2"], "test": ["b/s1"]}
    parts[part] = [*parts[part], "c/*"]
    with pytest.raises(ConfigError, match=r"pairs that match 'c/\*'; found none"):
        find_split(source, parts["train"], parts["validation"], {"x": parts["test"]})


def test_tests_that_are_not_there_yet_stop_no_training(source: PairSource) -> None:
    split = find_split(source, ["a/*"], ["b/s1"], {"x": ["c/*"]}, tests_required=False)
    assert split.test == {"x": ()}
    with pytest.raises(ConfigError, match="found none"):
        find_split(source, ["a/*"], ["c/*"], {}, tests_required=False)


def test_a_star_does_not_reach_into_folders(source: PairSource) -> None:
    with pytest.raises(ConfigError, match="found none"):
        find_split(source, ["*s1"], [], {})


def test_names_are_in_the_order_of_the_alphabet_and_no_name_is_no_pair(source: PairSource) -> None:
    assert source.names() == NAMES
    assert load_pairs(source, []) == []


def test_a_pair_comes_back_as_it_was_written(tmp_path: Path) -> None:
    image, labels, positions = ramp_pair()
    write_pair(tmp_path, "ramp", image, labels, positions)
    (pair,) = load_pairs(open_pairs(tmp_path), ["ramp"])
    assert pair.name == "ramp"
    assert (pair.image.dtype, pair.labels.dtype) == (torch.uint8, torch.uint8)
    assert np.array_equal(pair.image[0].numpy(), np.rint(image * 255))
    assert np.array_equal(pair.labels.numpy(), labels)
    assert np.array_equal(pair.voxel_to_ras, AFFINE)
    assert pair.voxel_to_ras.dtype == np.float64
    assert np.array_equal(pair.positions.numpy(), np.moveaxis(positions, -1, 0))
    assert pair.positions.dtype == torch.float32
    torch.testing.assert_close(pair.float_image(), torch.from_numpy(image)[None])


@pytest.mark.parametrize(
    ("part", "shapes"),
    [
        ("image", r"shape \(91, 122, 123\); found \(90, 122, 123\)"),
        ("labels", r"shape \(91, 122, 123\); found \(90, 122, 123\)"),
        ("positions", r"shape \(46, 61, 62, 3\); found \(45, 61, 62, 3\)"),
    ],
)
def test_a_pair_on_another_grid_is_refused(tmp_path: Path, part: str, shapes: str) -> None:
    arrays = dict(zip(KINDS, ramp_pair(), strict=True))
    arrays[part] = arrays[part][:-1]
    write_pair(tmp_path, "short", *arrays.values())
    with pytest.raises(ConfigError, match=shapes):
        load_pairs(open_pairs(tmp_path), ["short"])


@pytest.mark.parametrize("part", ["labels", "positions"])
def test_a_pair_without_one_of_its_files_is_refused(tmp_path: Path, part: str) -> None:
    write_pair(tmp_path, "half", *ramp_pair())
    (tmp_path / f"half_{part}.nii.gz").unlink()
    with pytest.raises(ConfigError, match=f"half_{part}.*found no file"):
        load_pairs(open_pairs(tmp_path), ["half"])


@pytest.mark.parametrize(
    ("name", "found"), [("nowhere", "nothing"), ("notes.txt", "another kind of file")]
)
def test_what_is_neither_folder_nor_pack_is_refused(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "notes.txt").write_text("no pairs")
    with pytest.raises(ConfigError, match=f"found {found}"):
        open_pairs(tmp_path / name)


def test_a_pack_gives_back_image_labels_and_affine_to_the_bit(tmp_path: Path) -> None:
    pairs = [small_pair(name, seed) for seed, name in enumerate(NAMES)]
    write_pack(tmp_path / "pairs.npz", pairs)
    for pair, back in zip(
        pairs, load_pairs(open_pairs(tmp_path / "pairs.npz"), NAMES), strict=True
    ):
        assert back.name == pair.name
        for part in ("image", "labels"):
            assert getattr(back, part).dtype == torch.uint8
            assert torch.equal(getattr(back, part), getattr(pair, part))
        assert np.array_equal(back.voxel_to_ras, pair.voxel_to_ras)
        assert back.voxel_to_ras.dtype == np.float64


def test_a_pack_gives_back_positions_to_a_fortieth_of_a_millimetre(tmp_path: Path) -> None:
    pair = small_pair("s")
    write_pack(tmp_path / "pairs.npz", [pair])
    back = open_pairs(tmp_path / "pairs.npz").load("s")
    assert back.positions.dtype == torch.float32
    assert back.positions.shape == pair.positions.shape
    difference = (back.positions.double() - pair.positions.double()).abs().max()
    assert 0.02 < difference < 0.025 + 300 * torch.finfo(torch.float32).eps


def test_a_pack_of_a_packs_pairs_is_the_same_pack(tmp_path: Path) -> None:
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    write_pack(first, [small_pair("s")])
    write_pack(second, [open_pairs(first).load("s")])
    once, twice = (open_pairs(path).load("s").positions for path in (first, second))
    assert torch.equal(once, twice)


def test_a_pack_that_could_not_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "pairs.npz"
    write_pack(path, [small_pair("s")])
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_pack(path, [small_pair("t"), None])  # type: ignore[list-item]
    assert path.read_bytes() == before
    assert open_pairs(path).names() == ["s"]
