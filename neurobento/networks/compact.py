"""The compact network: a residual U-Net at half resolution with a sub-pixel head.

The image enters as 2 x 2 x 2 blocks, so the stride loses nothing. At the end the features are
interpolated to each of a block's eight voxels, refined with the block's intensities and classified.
A training step needs one voxel of each block. The exported graph takes the eight one by one, so the
logits of the whole image never exist at once, and only the blocks near the brain.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.labels import CLASS_COUNT
from neurobento.networks.layers import POSITIONS, Conv, Residual, from_blocks, to_blocks
from neurobento.networks.parcellation import ParcellationNetwork

__all__ = ["Compact", "compact"]


def compact() -> Compact:
    """Build the default network: widths 32-64-128-192, 117 classes."""
    return Compact(widths=(32, 64, 128, 192), head_width=48)


class Compact(ParcellationNetwork):
    """Class logits of an image on the network grid; `widths` are channels at 1/2, 1/4, 1/8 ...

    CPUs with bf16 dot products run multiples of 32 twice as fast.
    """

    needs_whole_image = True
    recomputed_blocks = (Residual,)
    places: Tensor

    def __init__(
        self,
        widths: Sequence[int],
        head_width: int,
        classes: int = CLASS_COUNT,
        shape: tuple[int, int, int] = NETWORK_SHAPE,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.divisor = 2 ** len(widths)
        self.features_width = widths[0]
        self.register_buffer("places", self._places(), persistent=False)
        self.stem = Conv(8 + 3, widths[0])
        self.encoder = nn.ModuleList(Residual(w, 1 if i == 0 else 2) for i, w in enumerate(widths))
        self.down = nn.ModuleList(Conv(a, b, stride=2) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(Residual(w, 1) for w in widths[:-1])
        self.refine = nn.Conv3d(widths[0] + 8, head_width * len(POSITIONS), 1)
        self.classify = nn.Conv3d(head_width, classes, 1)

    @property
    def padded_shape(self) -> tuple[int, int, int]:
        x, y, z = (-(-n // self.divisor) * self.divisor for n in self.shape)
        return x, y, z

    def _places(self) -> Tensor:
        """Return each block's position (1, 3, X/2, Y/2, Z/2) in the brain's box, -1..1."""
        axes = [torch.linspace(-1, 1, n // 2) for n in self.padded_shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]

    def features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and intensities of each block: (N, C, ...) and (N, 8, X/2, Y/2, Z/2)."""
        after_x, after_y, after_z = (
            m - n for n, m in zip(self.shape, self.padded_shape, strict=True)
        )
        blocks = to_blocks(F.pad(image, (0, after_z, 0, after_y, 0, after_x)))
        places = self.places.expand(image.shape[0], -1, -1, -1, -1).to(image.dtype)
        x = self.stem(torch.cat([blocks, places], dim=1))
        skips = []
        for i, stage in enumerate(self.encoder):
            x = stage(x if i == 0 else self.down[i - 1](x))
            skips.append(x)
        for i in reversed(range(len(self.decoder))):
            x = F.interpolate(self.up[i](x), scale_factor=2.0, mode="trilinear")
            x = self.decoder[i](x + skips[i])
        return x, blocks

    def _classify(self, features: Tensor, blocks: Tensor, position: int) -> Tensor:
        width = self.classify.in_channels
        rows = slice(position * width, (position + 1) * width)
        x = torch.cat([features, blocks], dim=1)
        assert self.refine.bias is not None
        x = F.conv3d(x, self.refine.weight[rows], self.refine.bias[rows])
        logits: Tensor = self.classify(F.leaky_relu(x, 0.01))
        return logits

    def _each_position(self, features: Tensor, blocks: Tensor) -> Iterator[Tensor]:
        """Yield logits of each of a block's voxels, as in `POSITIONS`, without the padding."""
        x, y, z = self._block_counts
        blocks = blocks[:, :, :x, :y, :z]
        position = 0
        for a in (0, 1):
            along_x = _interpolate(features, 2, a)[:, :, :x]
            for b in (0, 1):
                along_y = _interpolate(along_x, 3, b)[:, :, :, :y]
                for c in (0, 1):
                    along_z = _interpolate(along_y, 4, c)[..., :z]
                    yield self._classify(along_z, blocks, position)
                    position += 1

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, classes, X, Y, Z) of an image (N, 1, X, Y, Z) in [0, 1]."""
        return self._crop(from_blocks(list(self._each_position(*self.features(image)))))

    def labels(self, image: Tensor) -> Tensor:
        """Return labels (N, X, Y, Z) uint8: the largest logit's class; 0 where no brain is near."""
        features, blocks = self.features(image)
        near = self._near_brain(blocks).to(torch.uint8)
        best = [
            logits.argmax(dim=1, keepdim=True).to(torch.uint8) * near
            for logits in self._each_position(features, blocks)
        ]
        return self._crop(from_blocks(best))[:, 0]

    def _near_brain(self, blocks: Tensor) -> Tensor:
        """Return 1.0 at the image's blocks with brain in or beside them, else 0.0, (N, 1, ...)."""
        x, y, z = self._block_counts
        brain = (blocks[:, :, :x, :y, :z].amax(dim=1, keepdim=True) > 0).to(blocks.dtype)
        return F.max_pool3d(brain, 3, stride=1, padding=1)

    @property
    def _block_counts(self) -> tuple[int, int, int]:
        x, y, z = (-(-n // 2) for n in self.shape)
        return x, y, z

    def exported_labels(self) -> Callable[[Tensor], Tensor]:
        """Return `labels` in the form that engines run fastest.

        A position's features are interpolated by one depthwise convolution of two taps along each
        axis; the blocks near the brain are taken out as rows and classified by two matrix products.
        """
        heads = [self._head(position) for position in range(len(POSITIONS))]
        bias = self.classify.bias
        assert bias is not None
        columns = torch.cat([self.classify.weight.flatten(1), bias[:, None]], dim=1).detach()

        def labels(image: Tensor) -> Tensor:
            features, blocks = self.features(image)
            # one block more on every side, for the neighbours of those at the border
            x, y, z = (n + 1 for n in self._block_counts)
            near = torch.cat([features, blocks], dim=1)[:, :, :x, :y, :z]
            ends = [n - m for n, m in zip((x, y, z), near.shape[2:], strict=True)]
            near = F.pad(near, (1, ends[2], 1, ends[1], 1, ends[0]), mode="replicate")
            chosen = F.pad(self._near_brain(blocks), (0, 1, 0, 1, 0, 1)).flatten().nonzero()[:, 0]
            best = []
            for (a, b, c), (taps, weight, offset) in zip(POSITIONS, heads, strict=True):
                voxels = F.conv3d(near, taps, groups=len(taps))
                rows = voxels.permute(0, 2, 3, 4, 1).reshape(-1, len(taps))
                # the second voxel of a block lies between it and the next; the last block,
                # which has none, is padding, taken only where an engine takes all
                places = (chosen + ((a * y + b) * z + c)).clamp(max=rows.shape[0] - 1)
                rows = rows.index_select(0, places)
                hidden = F.leaky_relu(F.linear(rows, weight, offset), 0.01)
                best.append((columns @ hidden.mT).argmax(dim=0).to(torch.uint8))
            found = torch.zeros(image.shape[0] * x * y * z, len(POSITIONS), dtype=torch.uint8)
            found = found.to(image.device).index_put((chosen,), torch.stack(best, dim=1))
            parts = found.reshape(-1, x, y, z, len(POSITIONS)).unsqueeze(1).unbind(dim=-1)
            return self._crop(from_blocks(parts))[:, 0]

        return labels

    def _head(self, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return a position's taps (C, 1, 2, 2, 2), weights and bias, with one output of 1."""
        along = {0: (0.25, 0.75), 1: (0.75, 0.25)}  # a block's neighbour, or the block, first
        own = {0: (0.0, 1.0), 1: (1.0, 0.0)}
        sides = POSITIONS[position]
        feature, intensity = (
            torch.einsum("i,j,k->ijk", *(torch.tensor(weights[side]) for side in sides))
            for weights in (along, own)
        )
        taps = [feature] * self.features_width + [intensity] * len(POSITIONS)
        width = self.classify.in_channels
        rows = slice(position * width, (position + 1) * width)
        bias = self.refine.bias
        assert bias is not None
        weight = F.pad(self.refine.weight[rows].flatten(1), (0, 0, 0, 1)).detach()
        return torch.stack(taps)[:, None], weight, F.pad(bias[rows], (0, 1), value=1.0).detach()

    def block_shares(self, features: Tensor, blocks: Tensor) -> Tensor:
        """Return each class's share (N, classes, X/2, Y/2, Z/2), by two opposite corners."""
        parts = []
        for side, position in ((0, 0), (1, len(POSITIONS) - 1)):
            corner = features
            for axis in (2, 3, 4):
                corner = _interpolate(corner, axis, side)
            parts.append(self._classify(corner, blocks, position).softmax(dim=1))
        return (parts[0] + parts[1]) / 2

    def sampled_logits(
        self, image: Tensor, labels: Tensor, positions: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return logits (V, C) and labels (V,) int64 of one voxel of every block, for training.

        Each position gets a slab of blocks along x, so a permutation of all eight trains every
        weight.
        """
        features, blocks = self.features(image)
        count = -(-self.shape[0] // 2)
        edges = [round(i * count / len(positions)) for i in range(len(positions) + 1)]
        logits, chosen = [], []
        for slab, position in zip(itertools.pairwise(edges), positions, strict=True):
            chosen.append(self._labels_of(labels, slab, position).flatten().long())
            logits.append(self._logits_of(features, blocks, slab, position))
        return torch.cat(logits), torch.cat(chosen)

    def _labels_of(self, labels: Tensor, slab: tuple[int, int], position: int) -> Tensor:
        x, y, z = POSITIONS[position]
        return labels[:, 2 * slab[0] + x : 2 * slab[1] : 2, y::2, z::2]

    def _logits_of(
        self, features: Tensor, blocks: Tensor, slab: tuple[int, int], position: int
    ) -> Tensor:
        x, y, z = (
            len(range(s, n, 2)) for s, n in zip(POSITIONS[position], self.shape, strict=True)
        )
        start, stop = slab[0], min(slab[1], x)
        if stop <= start:
            return features.new_zeros((0, self.classify.out_channels))
        before = min(start, 1)
        near = features[:, :, start - before : stop + 1]
        for axis, side in enumerate(POSITIONS[position], start=2):
            near = _interpolate(near, axis, side)
        near = near[:, :, before : before + stop - start, :y, :z]
        logits = self._classify(near, blocks[:, :, start:stop, :y, :z], position)
        return logits.permute(0, 2, 3, 4, 1).flatten(0, 3)

    def _crop(self, x: Tensor) -> Tensor:
        a, b, c = self.shape
        return x[..., :a, :b, :c]


def _interpolate(features: Tensor, axis: int, side: int) -> Tensor:
    """Interpolate, trilinear, to each block's first (0) or second (1) voxel on one axis."""
    size = features.shape[axis]
    if side == 0:
        ends = features.narrow(axis, 0, 1), features.narrow(axis, 0, size - 1)
    else:
        ends = features.narrow(axis, 1, size - 1), features.narrow(axis, size - 1, 1)
    neighbours = torch.cat(ends, dim=axis)
    # not torch.lerp: its export adds a selection that costs as much again
    return torch.add(features, neighbours - features, alpha=0.25)
