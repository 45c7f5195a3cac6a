"""A U-shaped network that removes coarse noise from slices, and with it foreign structures.

Kascenas et al., "Denoising autoencoders for unsupervised anomaly detection in brain MRI", 2022.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from neurobento.networks.anomaly import AnomalyNetwork
from neurobento.networks.slice_unet import WIDTHS, SliceUNet

__all__ = ["DenoisingAutoencoder", "denoising_autoencoder"]

SMOOTHING = 5
"""Edge in pixels of the square over which errors are averaged: smaller ones are noise."""


def denoising_autoencoder() -> DenoisingAutoencoder:
    return DenoisingAutoencoder(WIDTHS)


class DenoisingAutoencoder(AnomalyNetwork):
    """A network that returns a slice without the noise that was added to it."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.network = SliceUNet(widths)

    def forward(self, image: Tensor) -> Tensor:
        cleaned: Tensor = self.network(image)
        return cleaned

    def error_map(self, image: Tensor) -> Tensor:
        """Return the smoothed absolute difference of slices and cleaned ones, (N, 128, 128)."""
        difference = (image - self(image)).abs()
        return F.avg_pool2d(difference, SMOOTHING, 1, SMOOTHING // 2)[:, 0]
