"""A small U-Net that learns from synthetic anomalies to mark foreign pixels in a healthy head."""

from __future__ import annotations

from torch import Tensor

from neurobento.networks.anomaly import AnomalyNetwork
from neurobento.networks.slice_unet import WIDTHS, SliceUNet

__all__ = ["AnomalyUNet", "anomaly_unet"]


def anomaly_unet() -> AnomalyUNet:
    return AnomalyUNet(WIDTHS)


class AnomalyUNet(AnomalyNetwork):
    """The probability that a pixel does not belong to a healthy head."""

    gives_logits = True

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.network = SliceUNet(widths)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, 128, 128) of images (N, 1, 128, 128) in [0, 1]."""
        logits: Tensor = self.network(image)[:, 0]
        return logits

    def error_map(self, image: Tensor) -> Tensor:
        """Return probabilities (N, 128, 128): the mean over the image and its mirror image."""
        mirrored: Tensor = self(image.flip(-1)).sigmoid().flip(-1)
        direct: Tensor = self(image).sigmoid()
        return (direct + mirrored) / 2
