"""Images in files, named in messages."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobento.labels import CLASS_COUNT
from neurobento.serving.tasks.parcellation.image_files import (
    MISSING,
    PATH_BYTES,
    has_missing,
    open_image,
    pack_paths,
    segment_files,
    write_image,
)
from neurobento.spec import ModelSpec

NETWORK = (91, 122, 123)
LABELS = ModelSpec("labels", "1", "compact", "", "", 18)
POSITIONS = replace(LABELS, atlas_sha256="0" * 64)


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
    names = pack_paths(files)
    assert names.shape == (3, PATH_BYTES)
    labels = segment_files(names, LABELS, infer, ignore)
    assert not has_missing(labels)
    assert [np.unique(each).tolist() for each in labels] == [[1], [2], [3]]


def test_names_may_be_joined_and_split_as_batches_are(files: list[Path]) -> None:
    names = np.concatenate([pack_paths(files[:1]), pack_paths(files[1:])])
    assert segment_files(names[2:], LABELS, infer, ignore).max() == 3


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_a_missing_or_short_image_is_marked_and_costs_the_others_nothing(
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

    labels = segment_files(pack_paths(files), LABELS, counting, ignore)
    assert [np.unique(each).tolist() for each in labels] == [[1], [MISSING], [3]]
    assert has_missing(labels)
    assert not has_missing(labels[::2])
    assert seen == [2]


def test_without_any_image_nothing_is_inferred(tmp_path: Path) -> None:
    def never(images: Any) -> Any:
        raise AssertionError

    labels = segment_files(pack_paths([tmp_path / "gone"]), LABELS, never, never)
    assert (labels == MISSING).all()


def test_a_missing_image_is_marked_among_positions_too(files: list[Path]) -> None:
    def positions(images: Any) -> Any:
        return np.full((len(images), 3, 24, 32, 32), -70.5, np.float32)

    files[1].unlink()
    answers = segment_files(pack_paths(files), POSITIONS, positions, ignore)
    assert (answers.dtype, answers.shape) == (np.float32, (3, 3, 24, 32, 32))
    assert [each.min() for each in answers] == [-70.5, MISSING, -70.5]
    assert has_missing(answers)
    assert not has_missing(answers[::2])


def test_each_image_tells_how_long_it_lay_in_its_file(files: list[Path]) -> None:
    now = time.time()
    for file, age_s in zip(files, (30.0, 20.0, -5.0), strict=True):
        os.utime(file, (now, now - age_s))
    found: list[float] = []
    segment_files(pack_paths(files), LABELS, infer, found.append)
    # the last was written in the future: the clock was set
    assert found == pytest.approx([30.0, 20.0, 0.0], abs=5.0)
    assert found[2] == 0.0


def test_no_class_index_is_taken_for_the_mark_of_an_image_that_is_gone() -> None:
    assert CLASS_COUNT <= MISSING <= np.iinfo(np.uint8).max


def test_a_name_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 1024 bytes"):
        pack_paths([tmp_path / ("x" * PATH_BYTES)])
