"""Images in files, named in messages."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobento.labels import CLASS_COUNT
from neurobento.serving.tasks.parcellation.grid_images import (
    GONE,
    NAME_BYTES,
    any_gone,
    labels_of,
    names_of,
    open_image,
    write_image,
)

NETWORK = (91, 122, 123)


def infer(images: Any) -> Any:
    """Labels that tell the images apart."""
    assert images.dtype == np.float32
    assert images.shape[1:] == (1, *NETWORK)
    return np.rint(images[:, 0] * 100).astype(np.uint8)


def ignore(seconds: float) -> None:
    """Of how long an image lay in its file."""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three images, of 0.01, 0.02 and 0.03, under names of different lengths."""
    made = [tmp_path / f"{'x' * i}\u00e4.image" for i in range(3)]
    for i, file in enumerate(made, 1):
        write_image(file, np.full(NETWORK, i / 100, np.float32))
    return made


def test_an_image_comes_back_to_the_bit(tmp_path: Path) -> None:
    image = np.random.default_rng(1).random(NETWORK, dtype=np.float32).transpose(0, 1, 2)
    write_image(tmp_path / "image", image)
    assert np.array_equal(open_image(tmp_path / "image"), image)


def test_each_image_gets_its_own_labels(files: list[Path]) -> None:
    names = names_of(files)
    assert names.shape == (3, NAME_BYTES)
    labels = labels_of(names, infer, ignore)
    assert not any_gone(labels)
    assert [np.unique(each).tolist() for each in labels] == [[1], [2], [3]]


def test_names_may_be_joined_and_split_as_batches_are(files: list[Path]) -> None:
    names = np.concatenate([names_of(files[:1]), names_of(files[1:])])
    assert labels_of(names[2:], infer, ignore).max() == 3


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_an_image_that_is_gone_or_short_is_told_of_and_costs_the_others_nothing(
    files: list[Path], content: bytes | None
) -> None:
    if content is None:
        files[1].unlink()
    else:
        files[1].write_bytes(content)
    seen = []

    def counting(images: Any) -> Any:
        seen.append(len(images))
        return infer(images)

    labels = labels_of(names_of(files), counting, ignore)
    assert [np.unique(each).tolist() for each in labels] == [[1], [GONE], [3]]
    assert any_gone(labels)
    assert not any_gone(labels[::2])
    assert seen == [2]


def test_without_any_image_nothing_is_inferred(tmp_path: Path) -> None:
    def never(images: Any) -> Any:
        raise AssertionError

    labels = labels_of(names_of([tmp_path / "gone"]), never, never)
    assert (labels == GONE).all()


def test_each_image_tells_how_long_it_lay_in_its_file(files: list[Path]) -> None:
    now = time.time()
    for file, age_s in zip(files, (30.0, 20.0, -5.0), strict=True):
        os.utime(file, (now, now - age_s))
    found: list[float] = []
    labels_of(names_of(files), infer, found.append)
    # the last was written in the future: the clock was set
    assert found == pytest.approx([30.0, 20.0, 0.0], abs=5.0)
    assert found[2] == 0.0


def test_no_class_index_is_taken_for_the_mark_of_an_image_that_is_gone() -> None:
    assert CLASS_COUNT <= GONE <= np.iinfo(np.uint8).max


def test_a_name_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 1024 bytes"):
        names_of([tmp_path / ("x" * NAME_BYTES)])
