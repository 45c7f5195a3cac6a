"""The map network: it finds where every voxel lies in the atlas and reads the label there.

AAL on a scan is a smooth map of one atlas. So this network does not paint 117
classes; it predicts that map, three numbers for every block of 2 x 2 x 2
voxels, in two steps at half of the resolution. The first looks at the image
alone. The second also sees the atlas's brain as the smoothed map so far lays it
over the image, and corrects what does not match. The labels are then read from
the atlas: no region can be lost or torn apart, and 117 logits of the whole image
never exist.

The idea is that of learned registration (VoxelMorph, Balakrishnan et al. 2019,
10.1109/TMI.2019.2897538) and of predicting a registration's result (Quicksilver,
Yang et al. 2017, 10.1016/j.neuroimage.2017.07.008).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurobento.geometry import NETWORK_SHAPE
from neurobento.labels import CLASS_COUNT
from neurobento.networks.layers import Conv, Residual, to_blocks

__all__ = ["AtlasMap", "Learning", "Step", "atlas_map"]

MARGIN = 4
"""Voxels around the brain in the atlas table."""

BRAIN_STEP = 2
"""Voxels of the atlas, along each axis, for one of the brain that is laid over images."""

Learning = Literal["both", "first", "second"]


def atlas_map() -> AtlasMap:
    """AAL on Colin27, 1 mm; fresh, its atlas is empty: `take_atlas`, or a checkpoint."""
    return AtlasMap((32, 64, 128, 192), (16, 32, 48, 64))


class AtlasMap(nn.Module):
    """Atlas positions and labels of an image on the network grid.

    Parameters
    ----------
    locate, refine
        Channels of the two steps at 1/2, 1/4 ... of the resolution. Multiples
        of 32 run at twice the speed of others on CPUs with bf16 dot products.
    brain_shape
        Voxels of the box around the atlas's brain.
    shape
        Voxels of the image.
    """

    atlas_labels: Tensor
    atlas_brain: Tensor
    atlas_voxel_to_ras: Tensor
    places: Tensor

    def __init__(
        self,
        locate: Sequence[int],
        refine: Sequence[int],
        brain_shape: tuple[int, int, int] = (144, 180, 152),
        shape: tuple[int, int, int] = NETWORK_SHAPE,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.divisor = 2 ** max(len(locate), len(refine))
        self.brain_shape = brain_shape
        table = tuple(n + 2 * MARGIN for n in brain_shape)
        self.register_buffer("atlas_labels", torch.zeros(table, dtype=torch.uint8))
        halved = [n // BRAIN_STEP for n in table]
        self.register_buffer("atlas_brain", torch.zeros(halved, dtype=torch.uint8))
        self.register_buffer("atlas_voxel_to_ras", torch.eye(4, dtype=torch.float64))
        self.register_buffer("places", self._places(), persistent=False)
        self.locate = _Step(8 + 3, locate, 0.0, max(table), bins=25, classes=CLASS_COUNT)
        self.refine = _Step(8 + 3 + 8, refine, -6.0, 6.0, bins=13)

    def take_atlas(self, labels: Tensor, brain: Tensor, voxel_to_ras: Tensor) -> None:
        """Keep an atlas, cut to its brain's box and a margin.

        Parameters
        ----------
        labels, brain
            (X, Y, Z) uint8 class index and real intensity on one grid.
        voxel_to_ras
            (4, 4) float64, its voxel index -> world RAS in mm.

        Raises
        ------
        ValueError
            The brain's box is not `brain_shape`, or its margin leaves the grid.
        """
        inside = torch.nonzero(brain > 0)
        low, high = inside.amin(dim=0), inside.amax(dim=0) + 1
        start = low - MARGIN
        found = tuple((high - low).tolist())
        if found != self.brain_shape:
            raise ValueError(f"expected a brain of {self.brain_shape} voxels, found {found}")
        room = torch.minimum(low, torch.tensor(brain.shape) - high).amin()
        if room < MARGIN:
            raise ValueError(f"expected {MARGIN} voxels around the brain, found {int(room)}")
        box = tuple(
            slice(s, s + n) for s, n in zip(start.tolist(), self.atlas_labels.shape, strict=True)
        )
        self.atlas_labels.copy_(labels[box])
        shares = F.avg_pool3d(brain[box].float()[None], BRAIN_STEP)[0] / float(brain.max())
        self.atlas_brain.copy_((shares * 255).round())
        self.atlas_voxel_to_ras.copy_(voxel_to_ras)
        self.atlas_voxel_to_ras[:3, 3] += voxel_to_ras[:3, :3] @ start.double()

    def to_table(self, positions: Tensor) -> Tensor:
        """Positions (N, 3, ...) from the atlas's world (RAS, mm) to voxels of the table."""
        inverse = torch.linalg.inv(self.atlas_voxel_to_ras)
        # float64, which autocast leaves alone
        turned = torch.einsum("ij,njxyz->nixyz", inverse[:3, :3], positions.double())
        moved: Tensor = turned + inverse[:3, 3].reshape(1, 3, 1, 1, 1)
        return moved.to(positions.dtype)

    @property
    def padded_shape(self) -> tuple[int, int, int]:
        """The image's shape rounded up to what the strides need."""
        x, y, z = (-(-n // self.divisor) * self.divisor for n in self.shape)
        return x, y, z

    def _axes(self, block: int) -> list[Tensor]:
        """Where the centres of blocks would lie in the atlas table, for each axis.

        The network grid is a brain's bounding box, so it is laid over the
        atlas's brain: the displacements start from there.

        Parameters
        ----------
        block
            Voxels along each edge of a block.
        """
        return [
            (block * (torch.arange(n // block) + 0.5)) / size * width + MARGIN - 0.5
            for n, size, width in zip(self.padded_shape, self.shape, self.brain_shape, strict=True)
        ]

    def _places(self) -> Tensor:
        """(1, 3, X/2, Y/2, Z/2): where each block lies in the grid, -1..1 along each axis."""
        axes = [torch.linspace(-1, 1, n // 2) for n in self.padded_shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]

    def forward(self, image: Tensor, learning: Learning = "both") -> list[Step]:
        """What each step finds.

        Parameters
        ----------
        image
            (N, 1, X, Y, Z) in [0, 1].
        learning
            "first" leaves the second step out; "second" gives it alone, and
            the first gets no slope.
        """
        after_x, after_y, after_z = (
            m - n for n, m in zip(self.shape, self.padded_shape, strict=True)
        )
        image = F.pad(image, (0, after_z, 0, after_y, 0, after_x))
        places = self.places.expand(image.shape[0], -1, -1, -1, -1)
        known = torch.cat([to_blocks(image), places], dim=1)
        # what a place looks like tells where it lies in the atlas, not how far it is from there
        origin = -self.start()
        if learning == "second":
            with torch.no_grad():
                first = self.locate(known, origin)
        else:
            first = self.locate(known, origin)
            if learning == "first":
                return [first]
        # the map is smooth; what differs from block to block is noise
        before = _double(F.avg_pool3d(first.displacements, 2))
        second = self.refine(torch.cat([known, self._laid_over(before)], dim=1), before)
        return [second] if learning == "second" else [first, second]

    def start(self) -> Tensor:
        """(1, 3, X/2, Y/2, Z/2): where blocks lie in the atlas table without displacement."""
        return torch.stack(torch.meshgrid(*self._axes(2), indexing="ij"))[None].to(self.places)

    def _laid_over(self, displacements: Tensor) -> Tensor:
        """The atlas's brain as the displacements lay it over the image, 8 values a block."""
        brain = self._look_up(self.atlas_brain, _double(displacements), BRAIN_STEP)
        return to_blocks(brain[:, None].float() / 255)

    def _look_up(self, table: Tensor, displacements: Tensor, step: int = 1) -> Tensor:
        """(N, X, Y, Z) what a table holds where each voxel is displaced to, nearest neighbour.

        One voxel of the table stands for `step` of the atlas along each axis.
        """
        x, y, z = (
            ((displacements[:, i].detach() + axis.to(table.device).reshape(shape)) / step)
            .add(0.5 / step - 0.5)
            .round()
            .clamp(0, size - 1)
            .long()
            for i, (axis, shape, size) in enumerate(
                zip(
                    self._axes(1),
                    ((-1, 1, 1), (1, -1, 1), (1, 1, -1)),
                    table.shape,
                    strict=True,
                )
            )
        )
        index = (x * table.shape[1] + y) * table.shape[2] + z
        return table.flatten()[index.flatten()].reshape(index.shape)

    def labels(self, image: Tensor) -> Tensor:
        """Labels (N, X, Y, Z) uint8 of an image: the atlas's where each voxel lies in it."""
        displacements = _double(self.forward(image)[-1].displacements)
        a, b, c = self.shape
        return self._look_up(self.atlas_labels, displacements, 1)[:, :a, :b, :c]


@dataclass(frozen=True, eq=False)
class Step:
    """What a step finds for its blocks.

    Attributes
    ----------
    displacements
        (N, 3, X, Y, Z) float32, voxels of the atlas table, from `AtlasMap.start`.
    before
        The same before this step, without slope.
    logits
        Three (N, B, X, Y, Z), one an axis: how far to move from there, in bins.
    centres
        (B,), the bins' centres in voxels of the table.
    classes
        (N, 117, X, Y, Z) logits of each block's label, while the first step
        trains: what a region looks like is learnt long before where it lies.
    """

    displacements: Tensor
    before: Tensor
    logits: list[Tensor]
    centres: Tensor
    classes: Tensor | None


class _Step(nn.Module):
    """A residual U-Net that says how far to move each block.

    It weighs bins of distance for each axis and moves by their mean.
    """

    centres: Tensor

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        low: float,
        high: float,
        bins: int,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(low, high, bins), persistent=False)
        self.stem = Conv(inputs, widths[0])
        self.encoder = nn.ModuleList(Residual(w, 1 if i == 0 else 2) for i, w in enumerate(widths))
        self.down = nn.ModuleList(Conv(a, b, stride=2) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(Residual(w, 1) for w in widths[:-1])
        self.out = nn.Conv3d(widths[0], 3 * bins, 1)
        self.classify = nn.Conv3d(widths[0], classes, 1) if classes else None

    def forward(self, x: Tensor, before: Tensor) -> Step:
        """From inputs (N, C, X, Y, Z) and the displacements (N, 3, X, Y, Z) so far."""
        x = self.stem(x)
        skips = []
        for i, stage in enumerate(self.encoder):
            x = stage(x if i == 0 else self.down[i - 1](x))
            skips.append(x)
        for i in reversed(range(len(self.decoder))):
            x = self.decoder[i](_double(self.up[i](x)) + skips[i])
        logits = list(self.out(x).float().chunk(3, dim=1))
        centres = self.centres.reshape(1, -1, 1, 1, 1)
        moved = [(axis.softmax(dim=1) * centres).sum(dim=1, keepdim=True) for axis in logits]
        before = before.detach()
        displacements = before + torch.cat(moved, dim=1)
        classes = self.classify(x) if self.classify and self.training else None
        return Step(displacements, before, logits, self.centres, classes)


def _double(x: Tensor) -> Tensor:
    """Trilinear upsampling by two."""
    return F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)
