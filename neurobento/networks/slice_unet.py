"""A U-Net for slices that also sees their local contrast, alike in all tissues, and asymmetry."""

from __future__ import annotations

import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from neurobento.networks.mirror import asymmetry, mean_around

__all__ = ["WIDTHS", "SliceUNet"]

WIDTHS = (16, 32, 64, 128, 128, 16)
"""Channels at 1/2, 1/4, ... 1/32 of the resolution, and at the end."""

WINDOW, LEAST_DEVIATION = 31, 0.03
"""Edge in pixels of the local window, and the deviation below which it counts as flat."""


class SliceUNet(nn.Module):
    """MONAI's BasicUNet at half resolution: a quarter of the work of one at full resolution."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.fold, self.unfold = nn.PixelUnshuffle(2), nn.PixelShuffle(2)
        self.network = BasicUNet(
            spatial_dims=2,
            in_channels=12,
            out_channels=4,
            features=widths,
            norm="batch",
            upsample="nontrainable",
        )

    def forward(self, image: Tensor) -> Tensor:
        seen = torch.cat([image, _local_contrast(image), asymmetry(image)], dim=1)
        made: Tensor = self.unfold(self.network(self.fold(seen)))
        return made


def _local_contrast(image: Tensor) -> Tensor:
    difference = image - mean_around(image, WINDOW)
    return difference / (mean_around(difference.square(), WINDOW).sqrt() + LEAST_DEVIATION)
