"""Pictures of heads: the brain lies in the middle whichever way the scan was tilted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.stability.pictures import HeadPicture, draw, main, picture_of
from neurobento.errors import ConfigError, NoBrainFound
from neurobento.parcellation.parcellator import prepare, restore_and_measure


class Filled:
    """Gives the whole brain one label."""

    def parcellate(self, scan: Any, preprocessing: str) -> Any:
        assert preprocessing == "full"
        prepared = prepare(scan, "stripped", 2)
        return restore_and_measure(prepared, 7 * (prepared.image > 0).astype(np.uint8), {})


class Blind:
    """Finds no brain."""

    def parcellate(self, scan: Any, preprocessing: str) -> Any:
        raise NoBrainFound(expected="a brain", found="none", remedy="None.")


@pytest.mark.parametrize("tilt_rad", [0.0, 0.5])
def test_brain_and_labels_lie_over_the_image_along_the_worlds_axes(
    phantom_on: Any, dice: Any, tilt_rad: float
) -> None:
    phantom = phantom_on("LPS", (3.0, 3.0, 3.0), tilt_rad)
    picture = picture_of(Filled(), phantom.scan(), "phantom")  # type: ignore[arg-type]
    assert picture.image.shape == picture.brain.shape == picture.labels.shape
    seen = (picture.image > 50).astype(np.uint8)
    assert dice(seen, picture.brain.astype(np.uint8), 1) > 0.95
    assert dice(7 * seen, picture.labels, 7) > 0.95
    # an ellipsoid of 60 x 75 x 55 mm
    sides = [int(np.ptp(places)) * 1.5 for places in np.nonzero(seen)]
    assert np.allclose(sides, [120, 150, 110], atol=6)


def test_a_head_without_a_brain_is_drawn_with_its_error(phantom: Any, tmp_path: Path) -> None:
    blind = picture_of(Blind(), phantom.scan(), "phantom")  # type: ignore[arg-type]
    assert blind.title == "phantom: NoBrainFound"
    assert blind.image.max() > 0
    assert not blind.brain.any()
    draw([blind], tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_more_heads_take_more_rows(phantom: Any, tmp_path: Path) -> None:
    picture = picture_of(Filled(), phantom.scan(), "phantom")  # type: ignore[arg-type]
    assert isinstance(picture, HeadPicture)
    heights = []
    for count in (3, 4):
        draw([picture] * count, tmp_path / "all.png")
        with Image.open(tmp_path / "all.png") as drawn:
            heights.append(drawn.height)
    assert heights[1] > 1.5 * heights[0]


def test_an_unknown_disturbance_is_refused(known_model: Path, tmp_path: Path) -> None:
    options = ["--model", known_model.name, "--models-folder", str(known_model.parent)]
    with pytest.raises(ConfigError, match="tilted by 30 degrees"):
        main(["scan.nii=upside down", *options, "-o", str(tmp_path / "x.png")])
