"""Report A's HighResNet: MONAI's, with the parameters of its section 3.6."""

from __future__ import annotations

from monai.networks.nets import HighResNet
from torch import Tensor, nn

from neurobento.labels import CLASS_COUNT

__all__ = ["ReportHighResNet", "highresnet"]


def highresnet() -> ReportHighResNet:
    """The network exactly as the report states it: three spatial dimensions, 1 in, 117 out."""
    return ReportHighResNet(HighResNet(spatial_dims=3, in_channels=1, out_channels=CLASS_COUNT))


class ReportHighResNet(nn.Module):
    """MONAI's HighResNet; it has no strides, so any shape will do.

    Parameters
    ----------
    network
        Maps (N, 1, X, Y, Z) to (N, C, X, Y, Z).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, 117, X, Y, Z) of an image (N, 1, X, Y, Z) in [0, 1]."""
        logits: Tensor = self.network(image)
        return logits

    def labels(self, image: Tensor) -> Tensor:
        """Labels (N, X, Y, Z) uint8 of an image: the class of the largest logit."""
        return self.forward(image).argmax(dim=1).byte()
