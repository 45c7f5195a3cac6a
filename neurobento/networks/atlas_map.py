"""The map network: it finds the position of every voxel in the atlas and reads the label there.

AAL on a scan is a smooth map of one atlas, so no region can be lost or torn apart. `compact`
estimates the regions; their centres of mass, against the atlas's, give a first map, 2 mm from the
registration's. A small residual U-Net corrects it three times. It sees the image, the atlas's brain
under the map so far, and how the two pull each other, by local correlation and by regions.

Sources: VoxelMorph (Balakrishnan et al. 2019, 10.1109/TMI.2019.2897538), Quicksilver (Yang et al.
2017, 10.1016/j.neuroimage.2017.07.008), RAFT (Teed and Deng 2020, arXiv:2003.12039).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.labels import CLASS_COUNT
from neurobento.networks.compact import Compact, compact
from neurobento.networks.layers import Conv, Residual, to_blocks
from neurobento.networks.matching import code_force, correlation_force, fit_affine, sample
from neurobento.networks.parcellation import ParcellationNetwork

__all__ = ["AtlasMap", "atlas_map"]

MARGIN = 4
"""Voxels around the brain in the atlas table."""

BLOCK = 4
"""Voxels of image or atlas, along each axis, for one value of map or codes."""

CODE_LENGTH, CODE_SCALE = 16, 508
"""Numbers in a class's code, each a quarter or minus that; 127 in the table is a quarter."""

LANDMARK_RADII = (30.0, 20.0, 12.0)
"""Radii in atlas voxels within which a centre of mass moves the map, from coarse to fine."""


def atlas_map() -> AtlasMap:
    """Build the network for AAL on Colin27, 1 mm; `take_atlas` or a checkpoint fills the atlas."""
    return AtlasMap(compact(), (32, 64, 96))


class AtlasMap(ParcellationNetwork):
    """Atlas positions and labels of an image on the network grid.

    `regions` is not trained here; `widths` are the correction's channels at 1/4, 1/8 ...
    """

    losses = ("positions",)
    needs_whole_image = True
    needs_atlas = True
    position_block = BLOCK
    starts_from = "compact"
    recomputed_blocks = (Residual,)

    atlas_labels: Tensor
    atlas_brain: Tensor
    atlas_codes: Tensor
    atlas_centres: Tensor
    atlas_voxel_to_ras: Tensor
    codes: Tensor

    def __init__(
        self,
        regions: Compact,
        widths: Sequence[int],
        updates: int = 3,
        brain_shape: tuple[int, int, int] = (144, 180, 152),
        shape: tuple[int, int, int] = NETWORK_SHAPE,
    ) -> None:
        super().__init__()
        self.shape, self.updates = shape, updates
        self.divisor = regions.divisor
        if self.divisor % (BLOCK * 2 ** (len(widths) - 1)):
            raise ValueError(f"expected fewer than {len(widths)} widths for these regions")
        self.brain_shape = brain_shape
        table = tuple(n + 2 * MARGIN for n in brain_shape)
        self.register_buffer("atlas_labels", torch.zeros(table, dtype=torch.uint8))
        halved, blocks = ([n // step for n in table] for step in (2, BLOCK))
        self.register_buffer("atlas_brain", torch.zeros(halved, dtype=torch.uint8))
        codes = torch.zeros((1, CODE_LENGTH, *blocks), dtype=torch.int8)
        self.register_buffer("atlas_codes", codes)
        self.register_buffer("atlas_centres", torch.zeros(CLASS_COUNT - 1, 3))
        self.register_buffer("atlas_voxel_to_ras", torch.eye(4, dtype=torch.float64))
        # two of the 117 share a code; the shipped weights have learnt with it
        random = torch.Generator().manual_seed(5)
        signs = torch.rand(CLASS_COUNT, CODE_LENGTH, generator=random) < 0.5
        self.register_buffer("codes", torch.where(signs, -0.25, 0.25))
        self.regions = regions.requires_grad_(requires_grad=False)
        #        blocks of image and of brain, place, position, two forces, turn, mask, code force
        inputs = 8 + 8 + 3 + 3 + 4 + 4 + 1 + 1 + 4 + regions.features_width
        self.correct = _Correction(inputs, widths)

    def take_atlas(self, labels: Tensor, brain: Tensor, voxel_to_ras: Tensor) -> None:
        """Keep an atlas's box; ValueError if its shape or margin is wrong or a region missing.

        `labels` and `brain` are (X, Y, Z) uint8 and real; `voxel_to_ras` is (4, 4) float64 in mm.
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
        self._keep_labels(labels[box])
        shares = F.avg_pool3d(brain[box].float()[None], 2)[0] / float(brain.max())
        self.atlas_brain.copy_((shares * 255).round())
        self.atlas_voxel_to_ras.copy_(voxel_to_ras)
        self.atlas_voxel_to_ras[:3, 3] += voxel_to_ras[:3, :3] @ start.double()

    def _keep_labels(self, labels: Tensor) -> None:
        voxels = torch.bincount(labels.flatten().long(), minlength=CLASS_COUNT)
        if missing := torch.nonzero(voxels[:CLASS_COUNT] == 0).flatten().tolist():
            raise ValueError(f"expected all {CLASS_COUNT - 1} regions, found none of {missing}")
        self.atlas_labels.copy_(labels)
        coded = self.codes[labels.long()].movedim(-1, 0)
        self.atlas_codes[0] = (F.avg_pool3d(coded, BLOCK) * CODE_SCALE).round()
        self.atlas_centres.copy_(
            torch.stack(
                [
                    torch.nonzero(self.atlas_labels == c).float().mean(dim=0)
                    for c in range(1, len(self.atlas_centres) + 1)
                ]
            )
        )

    def take_weights(self, other: nn.Module) -> None:
        """Start from another map network's weights, or take Compact's for `regions`."""
        part = self.regions if isinstance(other, Compact) else self
        part.load_state_dict(other.state_dict())

    def to_table(self, positions: Tensor) -> Tensor:
        """Positions (N, 3, ...) from the atlas's world (RAS, mm) to voxels of the table."""
        inverse = torch.linalg.inv(self.atlas_voxel_to_ras)
        # float64, which autocast leaves alone
        turned = torch.einsum("ij,njxyz->nixyz", inverse[:3, :3], positions.double())
        moved: Tensor = turned + inverse[:3, 3].reshape(1, 3, 1, 1, 1)
        return moved.to(positions.dtype)

    def atlas_positions(self, image: Tensor) -> Tensor:
        """Return the centres of blocks in the atlas's world, (N, 3, X/4, Y/4, Z/4) float64."""
        table = (self.start() + self(image)[-1]).double()
        turned = torch.einsum("ij,njxyz->nixyz", self.atlas_voxel_to_ras[:3, :3], table)
        return turned + self.atlas_voxel_to_ras[:3, 3].reshape(1, 3, 1, 1, 1)

    @property
    def padded_shape(self) -> tuple[int, int, int]:
        x, y, z = (-(-n // self.divisor) * self.divisor for n in self.shape)
        return x, y, z

    def start(self) -> Tensor:
        """Return each block's table position without a displacement, (1, 3, X/4, Y/4, Z/4)."""
        return _mesh(self._axes(BLOCK)).to(self.codes)

    def _axes(self, block: int) -> list[Tensor]:
        return [
            block * (torch.arange(n // block) + 0.5) / size * width + MARGIN - 0.5
            for n, size, width in zip(self.padded_shape, self.shape, self.brain_shape, strict=True)
        ]

    def _positions(self, displacements: Tensor, block: int) -> list[Tensor]:
        shapes = (-1, 1, 1), (1, -1, 1), (1, 1, -1)
        return [
            displacements[:, i] + axis.to(displacements).reshape(shape)
            for i, (axis, shape) in enumerate(zip(self._axes(block), shapes, strict=True))
        ]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the map before and after each correction; no gradient passes between corrections.

        Each is (N, 3, X/4, Y/4, Z/4) float32: displacements of blocks from `start`, in table
        voxels.
        """
        with torch.no_grad():
            features, blocks = self.regions.features(image)
            shares = F.avg_pool3d(self.regions.block_shares(features, blocks).float(), 2)
            features = F.avg_pool3d(features, 2)
            ends = [m - n for n, m in zip(self.shape, self.padded_shape, strict=True)]
            image = F.pad(image, (0, ends[2], 0, ends[1], 0, ends[0]))
            halved = F.avg_pool3d(image, 2)
            with _without_autocast(image.device):
                codes = torch.einsum("ncxyz,ck->nkxyz", shares, self.codes)
                found = [self._from_centres(shares)]
        places = _mesh([torch.linspace(-1, 1, n // BLOCK) for n in self.padded_shape])
        places = places.to(image).expand(image.shape[0], -1, -1, -1, -1)
        for update in range(self.updates):
            before = found[-1].detach()
            with torch.no_grad():
                seen = [places, *self._matches(halved, codes, before, update), features]
            found.append(before + BLOCK * self.correct(torch.cat(seen, dim=1)))
        return found

    def _from_centres(self, shares: Tensor) -> Tensor:
        """Return the map that lays the regions' centres of mass over the atlas's, smoothly."""
        weights = shares[:, 1:].flatten(2)
        mass = weights.sum(dim=2) + 1e-3
        start = self.start()
        flat = start.flatten(2).mT  # (1, V, 3)
        centres = weights @ flat / mass[..., None]
        targets = self.atlas_centres[None]
        matrix, offset = fit_affine(centres, targets.expand_as(centres), mass)
        positions = flat @ matrix.mT + offset[:, None]
        distance = (
            flat.square().sum(dim=2, keepdim=True)
            - 2 * flat @ centres.mT
            + centres.square().sum(dim=2)[:, None]
        )
        for radius in LANDMARK_RADII:
            gaps = targets - weights @ positions / mass[..., None]
            pull = torch.exp(-distance / (2 * radius**2)) * mass[:, None]
            # far from every centre there is no evidence, and nothing moves
            calm = 1e-3 * mass.mean(dim=1)[:, None, None]
            positions = positions + pull @ gaps / (pull.sum(dim=2, keepdim=True) + calm)
        return positions.mT.reshape(-1, *start.shape[1:]) - start

    def _matches(
        self, halved: Tensor, codes: Tensor, displacements: Tensor, update: int
    ) -> list[Tensor]:
        """Compare the image, halved and as codes (N, K, X/4, Y/4, Z/4), with the atlas."""
        at_blocks = self.start() + displacements
        at_halves = torch.stack(self._positions(_double(displacements), 2), dim=1)
        brain = sample(self.atlas_brain.to(halved)[..., None] / 255, at_halves / 2 - 0.25)
        quartered = F.avg_pool3d(halved, 2)
        fine = torch.cat(correlation_force(halved, brain), dim=1)
        coarse = torch.cat(correlation_force(quartered, F.avg_pool3d(brain, 2)), dim=1)
        table = self.atlas_codes[0].movedim(0, -1).to(halved) / CODE_SCALE
        sampled = sample(table, (at_blocks + 0.5) / BLOCK - 0.5)
        gap, force = code_force(codes, sampled)
        weights = halved.new_tensor([1.0, 10.0, 10.0, 10.0]).reshape(1, 4, 1, 1, 1)
        return [
            to_blocks(halved),
            to_blocks(brain),
            at_blocks / 80 - 1,
            coarse * weights,
            F.avg_pool3d(fine, 2) * weights,
            torch.full_like(quartered, update - 1.0),
            (quartered > 0).to(halved),
            gap,
            force,
        ]

    def labels(self, image: Tensor) -> Tensor:
        """Return labels (N, X, Y, Z) uint8: the atlas's at each voxel's position in it."""
        return self._labels(self.forward(image)[-1])

    def outputs(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return labels and the float32 positions of blocks, with one pass through the network."""
        displacements = self.forward(image)[-1]
        table = self._positions(displacements, BLOCK)
        rows = self.atlas_voxel_to_ras[:3].float()
        world = [sum(a * at for a, at in zip(row, table, strict=False)) + row[3] for row in rows]
        return self._labels(displacements), torch.stack(world, dim=1)

    def _labels(self, displacements: Tensor) -> Tensor:
        positions = self._positions(_double(_double(displacements)), 1)
        x, y, z = (
            place.round().clamp(0, size - 1).long()
            for place, size in zip(positions, self.atlas_labels.shape, strict=True)
        )
        _, b, c = self.atlas_labels.shape
        index = (x * b + y) * c + z
        read = self.atlas_labels.flatten().index_select(0, index.flatten()).reshape(index.shape)
        a, b, c = self.shape
        return read[:, :a, :b, :c]


class _Correction(nn.Module):
    """A residual U-Net that predicts each block's move, in blocks; untrained, it predicts none."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = Conv(inputs, widths[0])
        self.encoder = nn.ModuleList(Residual(w, 2) for w in widths)
        self.down = nn.ModuleList(Conv(a, b, stride=2) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(Residual(w, 1) for w in widths[:-1])
        self.out = nn.Conv3d(widths[0], 3, 3, padding=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips = []
        for i, stage in enumerate(self.encoder):
            x = stage(x if i == 0 else self.down[i - 1](x))
            skips.append(x)
        for i in reversed(range(len(self.decoder))):
            x = self.decoder[i](_double(self.up[i](x)) + skips[i])
        moved: Tensor = self.out(x).float()
        return moved


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Disable autocast: sums of masses times positions leave fp16's range."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _mesh(axes: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)
