"""A U-shaped network that takes coarse noise off slices, and with it what is foreign in them.

Kascenas et al., "Denoising autoencoders for unsupervised anomaly detection in brain
MRI", 2022.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from neurobento.networks.anomaly import AnomalyNetwork
from neurobento.networks.slice_unet import WIDTHS, SliceUNet

__all__ = ["DenoisingAutoencoder", "denoising_autoencoder"]

SMOOTHING = 5
"""Edge in pixels of the mean that is taken of the errors: what is small is noise."""


def denoising_autoencoder() -> DenoisingAutoencoder:
    """The default, widths 16 to 128."""
    return DenoisingAutoencoder(WIDTHS)


class DenoisingAutoencoder(AnomalyNetwork):
    """Gives a slice back without what was put over it.

    Parameters
    ----------
    widths
        Of the `SliceUNet`.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.network = SliceUNet(widths)

    def forward(self, image: Tensor) -> Tensor:
        """Cleaned slices (N, 1, 128, 128) of slices (N, 1, 128, 128)."""
        cleaned: Tensor = self.network(image)
        return cleaned

    def error_map(self, image: Tensor) -> Tensor:
        """The smoothed absolute difference of a slice and the cleaned one, (N, 128, 128)."""
        difference = (image - self(image)).abs()
        return F.avg_pool2d(difference, SMOOTHING, 1, SMOOTHING // 2)[:, 0]
