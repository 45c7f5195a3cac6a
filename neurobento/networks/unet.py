"""Report A's U-Net: MONAI's, with the parameters of its section 3.6.

Its last convolution, at full resolution, takes nine tenths of the arithmetic. With `mixing` off
only the middle weights of its kernel are not zero, and only those are computed. Then no voxel needs
its neighbours' logits, so a training step computes an eighth of them and sees more scans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.networks.blocks import ResidualUnit
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn import functional as F

from neurobento.labels import CLASS_COUNT
from neurobento.networks.layers import POSITIONS, from_blocks
from neurobento.networks.parcellation import ParcellationNetwork

__all__ = ["ReportUNet", "unet"]


def unet() -> ReportUNet:
    """Build the network exactly as the report states it."""
    return ReportUNet(
        UNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=CLASS_COUNT,
            channels=(16, 32, 64, 128, 256),
            strides=(2, 2, 2, 2),
            num_res_units=2,
        )
    )


class ReportUNet(ParcellationNetwork):
    """MONAI's U-Net on an image padded to multiples of 16, its logits cropped back."""

    recomputed_blocks = (ResidualUnit,)
    can_hold_mixing = True

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def hold_mixing(self) -> None:
        """Set the last convolution's weights to zero for all neighbours, and skip those."""
        with torch.no_grad():
            weight = self._mix.weight
            middle = weight[:, :, 1, 1, 1].clone()
            weight.zero_()[:, :, 1, 1, 1] = middle
        self.mixing = False

    @property
    def _mix(self) -> nn.Conv3d:
        mix: nn.Conv3d = self.network.model[2][1].conv.unit0.conv
        return mix

    def _inner_features(self, image: Tensor) -> Tensor:
        """Return features (N, 32, X/2, Y/2, Z/2) of a padded image."""
        a, b, c = image.shape[2:]
        x = F.pad(image, (0, -c % 16, 0, -b % 16, 0, -a % 16))
        down, inside, _ = self.network.model
        features: Tensor = inside(down(x))
        return features

    def _mix_logits(self, x: Tensor) -> Tensor:
        if self.mixing:
            logits: Tensor = self.network.model[2][1](x)
            return logits
        return x + F.conv3d(x, self._mix.weight[:, :, 1:2, 1:2, 1:2], self._mix.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, 117, X, Y, Z) of an image (N, 1, X, Y, Z) in [0, 1]."""
        a, b, c = image.shape[2:]
        return self._mix_logits(self.network.model[2][0](self._inner_features(image)))[
            ..., :a, :b, :c
        ]

    def sampled_logits(
        self, image: Tensor, labels: Tensor, order: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return logits (V, C) and labels (V,) int64 for training.

        Without `mixing` they are of the voxel `POSITIONS[order[0]]` of each 2 x 2 x 2 block, and
        the last instance norm sees these alone.
        """
        if self.mixing:
            logits, chosen = self.forward(image), labels
        else:
            place = x, y, z = POSITIONS[order[0]]
            chosen = labels[:, x::2, y::2, z::2]
            a, b, c = chosen.shape[1:]
            logits = self._mix_logits(self._voxel_features(self._inner_features(image), place))[
                ..., :a, :b, :c
            ]
        return logits.movedim(1, -1).flatten(0, 3), chosen.flatten().long()

    def _voxel_features(self, features: Tensor, place: tuple[int, ...]) -> Tensor:
        """Return the upsampled, normalised and activated features of one voxel in 2 x 2 x 2."""
        x: Tensor = self.network.model[2][0].adn(self._voxel_before_norm(features, place))
        return x

    def _voxel_before_norm(self, features: Tensor, place: tuple[int, ...]) -> Tensor:
        rise = self.network.model[2][0]
        weight = rise.conv.weight.transpose(0, 1)
        ends: list[int] = []
        for axis, odd in enumerate(place, start=2):
            taps = torch.tensor([2, 0] if odd else [1], device=weight.device)
            weight = weight.index_select(axis, taps)
            ends = [0, odd, *ends]
        return F.conv3d(F.pad(features, ends), weight, rise.conv.bias)

    def exported_labels(self) -> Callable[[Tensor], Tensor]:
        """Return the exported graph's function for labels: by blocks if no voxels mix."""
        others = self._mix.weight.detach().clone()
        others[:, :, 1, 1, 1] = 0
        return self.labels if others.any() else self._labels_by_blocks

    def _labels_by_blocks(self, image: Tensor) -> Tensor:
        """Return `labels` without the last transposed convolution, at which engines are slow."""
        a, b, c = image.shape[2:]
        features = self._inner_features(image)
        rise = self.network.model[2][0]
        parts = [self._voxel_before_norm(features, place) for place in POSITIONS]
        x = rise.adn(torch.cat(parts, dim=2))
        x = x + F.conv3d(x, self._mix.weight[:, :, 1:2, 1:2, 1:2], self._mix.bias)
        best = x.argmax(dim=1, keepdim=True).to(torch.uint8)
        return from_blocks(best.chunk(len(POSITIONS), dim=2))[:, 0, :a, :b, :c]
