"""Splits name every scan once, and pairs come back as they were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from neurobento.errors import ConfigError
from neurobento.geometry import NETWORK_SHAPE
from training.dataset import find_split, load_pairs

AFFINE = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.125]), [-60, -75, -45])
NAMES = ["a/s1", "a/s2", "a/s3", "b/s1", "b/s2"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Names only: the split opens no file."""
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        for suffix in ("image", "labels", "registered"):
            (tmp_path / f"{name}_{suffix}.nii.gz").touch()
    return tmp_path


def write_pair(folder: Path, name: str, image: Any, labels: Any) -> None:
    nib.save(nib.Nifti1Image(image, AFFINE), folder / f"{name}_image.nii.gz")
    nib.save(nib.Nifti1Image(labels, AFFINE), folder / f"{name}_labels.nii.gz")


def ramp_pair() -> tuple[Any, Any]:
    """An image of all 256 grey values and labels of all 117 classes, different along each axis."""
    x, y, z = np.indices(NETWORK_SHAPE, sparse=True)
    image = (x + 2 * y + 3 * z) % 256 / np.float32(255)
    return image.astype(np.float32), ((x + 3 * y + z) % 117).astype(np.uint8)


def test_a_split_holds_the_names_its_patterns_match(folder: Path) -> None:
    split = find_split(folder, ["a/s[12]"], ["a/s3"], {"x": ["b/s1"], "y": ["b/*2"]})
    assert split.train == ("a/s1", "a/s2")
    assert split.validation == ("a/s3",)
    assert split.test == {"x": ("b/s1",), "y": ("b/s2",)}


def test_names_come_in_the_order_of_patterns_then_of_the_alphabet(folder: Path) -> None:
    assert find_split(folder, ["b/*", "a/*"], [], {}).train == (
        *("b/s1", "b/s2"),
        *("a/s1", "a/s2", "a/s3"),
    )


def test_a_scan_that_two_patterns_of_one_part_match_is_in_it_once(folder: Path) -> None:
    assert find_split(folder, ["a/*", "a/s1"], [], {}).train == ("a/s1", "a/s2", "a/s3")


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
    folder: Path, train: list[str], validation: list[str], test: dict[str, list[str]]
) -> None:
    with pytest.raises(ConfigError, match="every scan in one part") as caught:
        find_split(folder, train, validation, test)
    assert caught.value.found == "a/s3 in two"


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_pattern_that_matches_nothing_is_refused(folder: Path, part: str) -> None:
    parts: dict[str, list[str]] = {"train": ["a/s1"], "validation": ["a/s2"], "test": ["b/s1"]}
    parts[part] = [*parts[part], "c/*"]
    with pytest.raises(ConfigError, match=r"pairs that match 'c/\*'; found none"):
        find_split(folder, parts["train"], parts["validation"], {"x": parts["test"]})


def test_a_pair_comes_back_as_it_was_written(tmp_path: Path) -> None:
    image, labels = ramp_pair()
    write_pair(tmp_path, "ramp", image, labels)
    (pair,) = load_pairs(tmp_path, ["ramp"])
    assert pair.name == "ramp"
    assert (pair.image.dtype, pair.labels.dtype) == (torch.uint8, torch.uint8)
    assert np.array_equal(pair.image[0].numpy(), np.rint(image * 255))
    assert np.array_equal(pair.labels.numpy(), labels)
    assert np.array_equal(pair.voxel_to_ras, AFFINE)
    assert pair.voxel_to_ras.dtype == np.float64
    torch.testing.assert_close(pair.float_image(), torch.from_numpy(image)[None])


def test_no_name_is_no_pair(tmp_path: Path) -> None:
    assert load_pairs(tmp_path, []) == []


@pytest.mark.parametrize("part", ["image", "labels"])
def test_a_pair_on_another_grid_is_refused(tmp_path: Path, part: str) -> None:
    arrays = dict(zip(("image", "labels"), ramp_pair(), strict=True))
    arrays[part] = arrays[part][:-1]
    write_pair(tmp_path, "short", arrays["image"], arrays["labels"])
    with pytest.raises(ConfigError, match=r"shape \(91, 122, 123\); found \(90, 122, 123\)"):
        load_pairs(tmp_path, ["short"])
