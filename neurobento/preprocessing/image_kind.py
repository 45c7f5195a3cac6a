"""Tell what kind of image came in, if it is not the T1-weighted scan that was asked for.

The values alone betray a mask or a label map. Other kinds show in the brain finder's tissue map:
how bright the tissues are, what lies around the brain, and whether the deep structures are where
they belong. The thresholds were chosen on some thirty real heads and brains, on the same ones with
a wrong header, and on the few images of other kinds that docs/refusals.md names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import WrongKindOfImage
from neurobento.imaging.geometry import FINDER_VOXEL_MM
from neurobento.preprocessing.tissues import TISSUES

__all__ = ["HeadView", "image_doubts", "refuse_labels", "value_doubts"]

LABEL_NEIGHBOURS = 0.7
"""Share of neighbouring voxels with one value from which whole numbers are labels.

Label maps have 0.74 and more, scans of 256 grey levels at most 0.22, and of 16 at most 0.49.
"""

AIR_HU = (-1100.0, -900.0)
"""Air in the Hounsfield units of a CT."""

LEAST_AIR_SHARE = 0.02
"""Share of a CT's voxels that are air."""

SHOWN = 0.05
"""Signal on the finder's grid, in [0, 1], from which a voxel shows something."""

STRIPPED_SURROUNDINGS, SKULL_SURROUNDINGS = 0.2, 0.4
"""Volume shown around the brain, as a share of the brain's: without skull, and with it.

Heads have 0.57 and more, brains without skull at most 0.05.
"""

LEAST_T1_CONTRAST = 1.1
"""White matter over cortex; T1-weighted scans of adults and children have 1.11 to 1.60."""

SURFACE_MM, DEPTH_MM = (6.0, 10.0), (16.0, 26.0)
"""Depths below the brain's surface: mostly cortex and fluid, and mostly white matter."""

LEAST_T1_GAIN = 0.97
"""Brightness at depth over that near the surface, whatever the tissues are taken for.

T1-weighted scans have 1.07 and more, drawn T2-weighted heads and a proton density image 0.71 to
0.95.
"""

DEEP = tuple(
    map(
        TISSUES.index,
        ("deep grey matter", "hippocampus and amygdala", "cerebellar white matter", "brainstem"),
    )
)
"""Tissues that the finder sees only in a head that stands as it was trained."""

USUAL_DEEP_SHARE, LEAST_DEEP_SHARE = 0.078, 0.05
"""Share of the brain that is deep structures: doubtful below the first, no brain below the second.

Upright brains have 0.074 to 0.104, turned ones 0.003 to 0.074.
"""

TURNED_GAIN, TURNED_DEEP_SHARE = 1.15, 0.065
"""A turn is believed if it shows so many times the deep structures, and at least this share."""

TURNS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "upside down": ((1, 0, 0), (0, 1, 0), (0, 0, -1)),
    "back to front": ((1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "upside down and back to front": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "lying on its back": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "lying on its face": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
}
"""Position that a wrong header gives a head -> the turn in the world that mends it."""

Array = NDArray[np.float32]
Affine = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeadView:
    """A head as the brain finder saw it, on its grid."""

    # In [0, 1].
    image: Array
    # Share of brain, 255 is all of it.
    share: NDArray[np.uint8]
    # Indices of `TISSUES`.
    tissues: NDArray[np.integer]

    @property
    def is_brain(self) -> NDArray[np.bool_]:
        return self.share > 127

    @property
    def deep_share(self) -> float:
        """Return the share of the brain that is deep structures."""
        return float(np.isin(self.tissues[self.is_brain], DEEP).mean()) if self.share.any() else 0.0

    def brightness(self, tissue: str) -> float:
        """Return the median of a tissue inside the brain, NaN if there is hardly any."""
        values = self.image[(self.tissues == TISSUES.index(tissue)) & self.is_brain]
        return float(np.median(values)) if len(values) > 30 else float("nan")

    def gain_in_depth(self) -> float:
        """Return the brightness at depth over that near the surface, NaN if that is zero."""
        from scipy.ndimage import distance_transform_edt, find_objects

        box = find_objects(self.is_brain.astype(np.uint8))
        if not box:
            return float("nan")
        # air around it, so that the brain's surface is one in the box too
        depth_mm = distance_transform_edt(np.pad(self.is_brain[box[0]], 1)) * FINDER_VOXEL_MM
        image = np.pad(self.image[box[0]], 1)
        near, deep = (
            image[(depth_mm > least) & (depth_mm <= most)] for least, most in (SURFACE_MM, DEPTH_MM)
        )
        if not len(deep) or np.median(near) <= 0:
            return float("nan")
        return float(np.median(deep) / np.median(near))

    def surroundings(self) -> float:
        """Return the volume shown around the brain as a share of the brain's."""
        from scipy.ndimage import binary_dilation

        near = binary_dilation(self.is_brain, iterations=2)
        return float(((self.image > SHOWN) & ~near).sum() / max(1, self.is_brain.sum()))


def refuse_labels(array: Array) -> None:
    """Raise WrongKindOfImage for a mask or a label map."""
    # a part shows it: an image of whole numbers is rare enough, and one of few of them
    part = array[::3, ::3]
    kinds, counts = np.unique(part[:, :, ::3], return_counts=True)
    # one value alone, or none above zero, is for others to refuse
    if len(kinds) < 2 or kinds[-1] <= 0 or not (kinds == np.rint(kinds)).all():
        return
    if (
        np.count_nonzero(kinds) > 1
        and _equal_neighbours(part, kinds[counts.argmax()]) < LABEL_NEIGHBOURS
    ):
        return
    values = np.unique(array[array != 0])
    if not (values == np.rint(values)).all():
        return
    what = "a mask" if len(values) == 1 else f"a label map: {len(values)} whole numbers"
    raise WrongKindOfImage(
        expected="a scan, whose brightness differs from voxel to voxel",
        found=f"what looks like {what}, in large even areas",
        remedy="Send the scan that it was made from.",
    )


def _equal_neighbours(array: Array, background: np.float32) -> float:
    """Return the share of neighbours along the last axis that are equal, outside the background."""
    shown = (array != 0) & (array != background)
    first, second = array[..., :-1], array[..., 1:]
    inside = shown[..., :-1] & shown[..., 1:]
    return float((first == second)[inside].mean()) if inside.any() else 0.0


def value_doubts(array: Array) -> tuple[str, ...]:
    """Return a sentence if the scan's own values are those of another kind of image."""
    air = array[(array > AIR_HU[0]) & (array < AIR_HU[1])]
    # of one value alone it is the background that a tool has set
    noisy = np.count_nonzero(air != np.median(air)) if len(air) else 0
    if noisy < LEAST_AIR_SHARE * array.size:
        return ()
    return ("looks like a CT: its air is at -1000; the network knows T1-weighted MRI alone",)


def image_doubts(
    view: HeadView, is_stripped: bool, turned: Callable[[Affine], HeadView]
) -> tuple[str, ...]:
    """Return sentences about what the image may be instead, the likeliest cause first.

    `is_stripped` says that the user expects no skull; `turned` returns the view after a turn of the
    head in the world.
    """
    # of a head that stands wrong the tissues cannot be believed
    orientation = _doubts_about_orientation(view, turned)
    contrast = [] if orientation else _doubts_about_contrast(view)
    return (*orientation, *contrast, *_doubts_about_skull(view, is_stripped))


def _doubts_about_orientation(view: HeadView, turned: Callable[[Affine], HeadView]) -> list[str]:
    share = view.deep_share
    if share >= USUAL_DEEP_SHARE:
        return []
    shares = {name: turned(_turn(name)).deep_share for name in TURNS}
    best = max(shares, key=shares.__getitem__)
    if shares[best] >= max(TURNED_DEEP_SHARE, TURNED_GAIN * share):
        return [
            f"looks {best}: turned round, it has {shares[best] / max(share, 1e-3):.1f} times as "
            "much that looks like hippocampus, brainstem and deep grey matter; check the "
            "orientation in the header"
        ]
    if share < LEAST_DEEP_SHARE:
        return [
            f"does not look like a human brain: {100 * share:.1f} % of it look like hippocampus, "
            "brainstem and deep grey matter, where 7 to 10 % are usual"
        ]
    return []


def _turn(name: str) -> Affine:
    turn = np.eye(4)
    turn[:3, :3] = TURNS[name]
    return turn


def _doubts_about_skull(view: HeadView, is_stripped: bool) -> list[str]:
    around = view.surroundings()
    if is_stripped and around > SKULL_SURROUNDINGS:
        return ["looks like a head with skull: use the preprocessing `full`"]
    if not is_stripped and around < STRIPPED_SURROUNDINGS:
        return [
            "looks skull-stripped: almost nothing is shown around the brain; use the preprocessing "
            "`stripped`"
        ]
    return []


def _doubts_about_contrast(view: HeadView) -> list[str]:
    white, cortex = view.brightness("cerebral white matter"), view.brightness("cerebral cortex")
    if view.gain_in_depth() < LEAST_T1_GAIN:
        return [
            "looks T2-weighted, or proton density: the brain is darker in its depth than near its "
            "surface; the network knows T1-weighted scans alone"
        ]
    if white >= LEAST_T1_CONTRAST * cortex > 0:
        return []
    if not white > 0 < cortex:
        return ["may not be T1-weighted: white matter and cortex cannot be told apart"]
    return [
        f"may not be T1-weighted: white matter is {white / cortex:.2f} times as bright as cortex, "
        "where 1.1 to 1.6 are usual; this is so in FLAIR, CT, infants, and where slices are thick"
    ]
