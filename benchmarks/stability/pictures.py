"""Draw the brain that was found in heads, and the regions in it, to be looked at.

    python -m benchmarks.stability.pictures SCAN 'SCAN=tilted by 30 degrees' ... -o FILE.png

A scan may be disturbed first (see `benchmarks.stability.disturbances`). Each head is a row of three
planes along the world's axes through the middle of its brain. Nothing is left out: a head in which
no brain is found is drawn without one, with the error's name.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.stability.disturbances import FOR_HEADS
from neurobento.backends import open_backend
from neurobento.command import run
from neurobento.errors import ConfigError, NeuroBentoError
from neurobento.files import write_atomically
from neurobento.imaging.resampling import resample
from neurobento.imaging.scan import Scan, read_scan, scan_name
from neurobento.labels import CLASS_COUNT
from neurobento.parcellation.parcellator import Parcellation, Parcellator
from neurobento.pictures import png_bytes
from neurobento.registry import DEFAULT_MODEL, find_model

__all__ = ["HeadPicture", "main", "picture_of"]

VOXEL_MM = 1.5

AROUND_MM = 45.0
"""Shown around the brain."""

COLUMNS = 3
"""Heads beside each other."""


@dataclass(frozen=True, eq=False)
class HeadPicture:
    """A head on a grid along the world's axes, with what was found in it."""

    title: str
    # (X, Y, Z) float32, bool and uint8
    image: NDArray[np.float32]
    brain: NDArray[np.bool_]
    labels: NDArray[np.uint8]


def picture_of(parcellator: Parcellator, scan: Scan, title: str) -> HeadPicture:
    """Parcellate a head and bring it onto a grid along the world's axes."""
    try:
        done = parcellator.parcellate(scan, "full")
    except NeuroBentoError as error:
        affine, shape = _grid_around(_corners(np.ones(scan.shape, bool), scan.voxel_to_ras))
        image = resample(scan.array, scan.voxel_to_ras, affine, shape)
        nothing = np.zeros(shape, np.uint8)
        return HeadPicture(f"{title}: {type(error).__name__}", image, nothing > 0, nothing)
    return _with_regions(scan, done, title)


def _with_regions(scan: Scan, done: Parcellation, title: str) -> HeadPicture:
    prepared = done.prepared
    network = prepared.grid.network_voxel_to_ras
    corners = _corners(prepared.image > 0, network)
    affine, shape = _grid_around(corners + AROUND_MM * np.array([[-1.0], [1.0]]))
    labels = done.answer.labels_on(affine, shape)
    brain = labels > 0 if prepared.brain is None else prepared.brain.on_grid(affine, shape)
    image = resample(scan.array, scan.voxel_to_ras, affine, shape)
    return HeadPicture(title, image, brain, labels)


def _corners(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lowest and the highest place of a mask in mm, (2, 3)."""
    points = np.argwhere(mask)[::7] @ affine[:3, :3].T + affine[:3, 3]
    return np.stack([points.min(axis=0), points.max(axis=0)])


def _grid_around(
    corners: NDArray[np.float64],
) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    affine = np.diag([VOXEL_MM] * 3 + [1.0])
    affine[:3, 3] = corners[0]
    x, y, z = (int(n) for n in np.ceil((corners[1] - corners[0]) / VOXEL_MM) + 1)
    return affine, (x, y, z)


def draw(pictures: Sequence[HeadPicture], path: Path) -> None:
    """Draw all heads, `COLUMNS` in a row, with the brain's outline in red."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    colours = np.random.default_rng(0).uniform(0.2, 1, (CLASS_COUNT, 4))
    colours[:, 3] = 0.5
    colours[0] = 0
    regions = ListedColormap(colours)
    rows = -(-len(pictures) // COLUMNS)
    figure = Figure(figsize=(6 * COLUMNS, 2.3 * rows), facecolor="black", layout="constrained")
    panels = figure.subplots(rows, 3 * COLUMNS, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    for number, picture in enumerate(pictures):
        row, column = divmod(number, COLUMNS)
        seen = picture.brain if picture.brain.any() else picture.image > 0
        middle = [int(np.median(places)) for places in np.nonzero(seen)]
        bright = float(np.percentile(picture.image, 99.5)) or 1.0
        for axis in range(3):
            axes = panels[row, 3 * column + axis]
            image, brain, labels = (
                np.take(each, middle[axis], axis=axis).T
                for each in (picture.image, picture.brain, picture.labels)
            )
            axes.imshow(image, cmap="gray", origin="lower", vmin=0, vmax=bright)
            axes.imshow(
                labels, cmap=regions, origin="lower", vmin=0, vmax=CLASS_COUNT - 1,
                interpolation="nearest",
            )  # fmt: skip
            if brain.any():
                axes.contour(brain, [0.5], colors="red", linewidths=0.7)
        panels[row, 3 * column + 1].set_title(picture.title, color="white", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png_bytes(figure))


def _read(given: str) -> tuple[Scan, str, str]:
    """Return a scan, its title, and the disturbance asked for."""
    path, _, name = given.partition("=")
    if name and name not in FOR_HEADS:
        raise ConfigError(
            subject=name,
            expected=f"one of {', '.join(FOR_HEADS)}",
            found="another name",
            remedy="Write SCAN=NAME, or SCAN alone.",
        )
    return read_scan(Path(path)), scan_name(Path(path)) + (f", {name}" if name else ""), name


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    from tqdm import tqdm

    parser = argparse.ArgumentParser(prog="python -m benchmarks.stability.pictures")
    parser.add_argument("scans", nargs="+", metavar="SCAN[=DISTURBANCE]")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--models-folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    parcellator = Parcellator(open_backend(find_model(args.model, args.models_folder)))
    pictures = []
    for given in tqdm(args.scans, unit="scan"):
        scan, title, name = _read(given)
        if name:
            brain = parcellator.parcellate(scan, "full").prepared.brain
            mask = scan.array > 0 if brain is None else brain.on_grid(scan.voxel_to_ras, scan.shape)
            scan = FOR_HEADS[name](scan, mask, np.random.default_rng(0))
        pictures.append(picture_of(parcellator, scan, title))
    draw(pictures, args.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.stability.pictures"))
