"""Find the brain by a network, in a head or in what a scan without skull shows."""

from __future__ import annotations

import dataclasses
import functools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import NoBrainFound, NotABrain
from neurobento.imaging.atlas import Mask
from neurobento.imaging.geometry import FINDER_SHAPE, FINDER_VOXEL_MM
from neurobento.imaging.resampling import resample
from neurobento.preprocessing.finder_grid import finder_grid, finder_image
from neurobento.preprocessing.image_kind import HeadView, image_doubts
from neurobento.preprocessing.threads import thread_limit
from neurobento.preprocessing.tissues import NO_BRAIN_TISSUE

if TYPE_CHECKING:
    from neurobento.backends.base import Backend

__all__ = [
    "Brain",
    "brain_of_stripped_scan",
    "find_brain",
    "load_finder",
    "run_finder",
    "shown_brain",
]

BRAIN_RANGE_ML = (250.0, 3000.0)
"""From less than a newborn's brain to a large brain in a loose mask; a head has over 4,000 ml."""

LEAST_RECOGNISED = 0.75
"""Share of a scan without skull in which the network must find brain to be believed."""

HALO = 0.05
"""Share of the brightest signal up to which a rim around a brain without skull is none of it."""

WIDENING_SIGMA, WIDENING_GAIN = 0.7, 1.8
"""Standard deviation of a Gaussian in voxels, and a factor for the smoothed share.

In scans without skull the network's border lies inside of the one that tools cut. Which widening
suits them was seen on a validation scan.
"""

RIM_SHARE = 20.0
"""Least share of brain, of 255, where a label may lie: the atlas reaches a little beyond masks."""

_RANGE = "{:.0f} to {:.0f} ml".format(*BRAIN_RANGE_ML)

_ONE_AT_A_TIME = threading.Lock()

Array = NDArray[np.float32]
Affine = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Brain:
    """The brain on the finder's grid."""

    # `FINDER_SHAPE`, the probability or the share of brain in each voxel; 255 is all of it.
    share: NDArray[np.uint8]
    # (4, 4), voxel of that grid -> world RAS in mm.
    voxel_to_ras: Affine
    # The volume in millilitres without its fluid, if a network has told tissues apart.
    tissue_ml: float | None = None
    # Of the network's ONNX file, if one found the brain.
    finder_sha256: str = ""
    # Sentences about what the image may be instead of what was asked for, the likeliest first.
    doubts: tuple[str, ...] = ()

    @property
    def volume_ml(self) -> float:
        """The volume in millilitres, with the fluid around and inside the brain."""
        return _millilitres(self.share)

    def surroundings(self) -> Mask:
        """Return the brain and its rim, where labels may lie."""
        return Mask(self.share.astype(np.float32), self.voxel_to_ras, RIM_SHARE)

    def on_grid(self, voxel_to_ras: Affine, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
        """Return the brain as a mask on another grid."""
        return resample(self.share, self.voxel_to_ras, voxel_to_ras, shape) > 127.5


def find_brain(signal: Array, voxel_to_ras: Affine) -> Brain:
    """Return the brain that the network finds in a head (see `positive_signal`).

    Raise NoBrainFound if it finds none.
    """
    brain, view = _look(signal, voxel_to_ras, _finder())
    doubts = _doubts(signal, voxel_to_ras, view, is_stripped=False)
    if not _plausible(brain):
        seen = f"The image {doubts[0]}." if doubts else ""
        raise NoBrainFound(
            expected=f"a head with a brain of {_RANGE}",
            found=f"{brain.volume_ml:.0f} ml that look like brain",
            remedy=seen
            or "Check that the scan is a head with its orientation and voxel sizes set.",
        )
    return dataclasses.replace(brain, doubts=doubts)


def run_finder(signal: Array, voxel_to_ras: Affine, finder: Backend) -> Brain:
    """Return what a network takes for the brain in a head, of whatever size."""
    return _look(signal, voxel_to_ras, finder)[0]


def _look(signal: Array, voxel_to_ras: Affine, finder: Backend) -> tuple[Brain, HeadView]:
    image, grid = finder_image(signal, voxel_to_ras)
    # threads may share the one backend, which runs an image at a time
    with _ONE_AT_A_TIME:
        outputs = finder.run(image[None, None])
    share, tissues = _one_part(np.asarray(outputs["brain"][0], np.float32)), outputs["tissues"][0]
    tissue_ml = _millilitres(share * np.isin(tissues, NO_BRAIN_TISSUE, invert=True))
    brain = Brain(share, grid, tissue_ml=tissue_ml, finder_sha256=finder.spec.onnx_sha256)
    return brain, HeadView(image, share, tissues)


def _doubts(
    signal: Array, voxel_to_ras: Affine, view: HeadView, *, is_stripped: bool
) -> tuple[str, ...]:
    def turned(turn: Affine) -> HeadView:
        return _look(signal, turn @ voxel_to_ras, _finder())[1]

    return image_doubts(view, is_stripped, turned)


def brain_of_stripped_scan(signal: Array, voxel_to_ras: Affine) -> Brain:
    """Return the brain that the network finds in what a scan without skull shows.

    So the brain is the same whichever tool took the skull off, and whether it was resampled since.
    If the network does not recognise a brain, all that the scan shows is taken. Raise NotABrain if
    that is too small or too large for one.
    """
    found, view = _look(signal, voxel_to_ras, _finder())
    shown = shown_brain(signal, voxel_to_ras, found)
    doubts = _doubts(signal, voxel_to_ras, view, is_stripped=True)
    if not _recognised(found, shown):
        return dataclasses.replace(shown, doubts=doubts)
    share = np.minimum(_widened(found.share), shown.share)
    # without its skull the volume inside of it is not known
    return dataclasses.replace(found, share=share, tissue_ml=None, doubts=doubts)


def shown_brain(signal: Array, voxel_to_ras: Affine, found: Brain | None = None) -> Brain:
    """Return the largest part of what a scan without skull shows, with its holes filled.

    A faint rim that a tool left around the brain is no part of it, where only so it is of a brain's
    size, or of that of the brain that the network found. Raise NotABrain if it is too small or too
    large for a brain.
    """
    whole = _shown_above(0.0, signal, voxel_to_ras)
    if _plausible(whole) and (found is None or _recognised(found, whole)):
        return whole
    without_halo = _shown_above(HALO * float(signal.max()), signal, voxel_to_ras)
    if _plausible(without_halo) and (found is None or _recognised(found, without_halo)):
        return without_halo
    if _plausible(whole):
        return whole
    too_large = whole.volume_ml > BRAIN_RANGE_ML[1]
    raise NotABrain(
        expected=f"a brain of {_RANGE} on a background of one value",
        found=f"{whole.volume_ml:.0f} ml in one piece",
        remedy="Use the preprocessing `full` for a head with skull."
        if too_large
        else "Check the voxel sizes in the header, and that the scan shows a whole brain.",
    )


def _shown_above(least: float, signal: Array, voxel_to_ras: Affine) -> Brain:
    grid = finder_grid(signal, voxel_to_ras)
    share = resample((signal > least).astype(np.float32), voxel_to_ras, grid, FINDER_SHAPE)
    return Brain(_one_part(share), grid)


def _recognised(found: Brain, shown: Brain) -> bool:
    return found.volume_ml >= LEAST_RECOGNISED * shown.volume_ml


def _widened(share: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Move the border of a brain outwards by about a third of a voxel of the finder's grid."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(share.astype(np.float32), WIDENING_SIGMA)
    return np.asarray(np.minimum(WIDENING_GAIN * smooth, 255), np.uint8)


def _plausible(brain: Brain) -> bool:
    return BRAIN_RANGE_ML[0] <= brain.volume_ml <= BRAIN_RANGE_ML[1]


def _millilitres(share: NDArray[np.uint8]) -> float:
    return float(share.sum(dtype=np.float64)) / 255 * FINDER_VOXEL_MM**3 / 1000


def _one_part(share: Array) -> NDArray[np.uint8]:
    """Return the brain's largest connected part, with its holes filled; 255 is a share of 1."""
    from scipy import ndimage

    parts, count = ndimage.label(share > 0.5)
    if not count:
        return np.zeros(share.shape, np.uint8)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest = parts == sizes.argmax()
    # the border's shares lie just outside of what is more brain than not
    near = ndimage.binary_dilation(largest)
    holes = ndimage.binary_fill_holes(largest) & ~largest
    whole = np.where(holes, 1, np.where(near, share, 0))
    return np.asarray(np.rint(255 * np.clip(whole, 0, 1)), np.uint8)


def load_finder() -> None:
    """Open the network that finds the brain, so that the first scan need not wait for it."""
    _finder()


@functools.cache
def _finder() -> Backend:
    from neurobento.backends import open_backend
    from neurobento.default_models import BRAIN_MODEL
    from neurobento.registry import find_model

    # on every machine the same masks, without waiting for a GPU's engine
    return open_backend(find_model(BRAIN_MODEL), device="cpu", threads=thread_limit())
