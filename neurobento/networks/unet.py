"""Report A's U-Net: MONAI's, with the parameters of its section 3.6."""

from __future__ import annotations

from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn import functional as F

from neurobento.labels import CLASS_COUNT

__all__ = ["ReportUNet", "unet"]


def unet() -> ReportUNet:
    """The network exactly as the report states it, padded to its strides."""
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


class ReportUNet(nn.Module):
    """MONAI's U-Net between a pad to a multiple of 16 and the crop back.

    Parameters
    ----------
    network
        Maps (N, 1, X, Y, Z) to (N, C, X, Y, Z) where 16 divides X, Y and Z.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, 117, X, Y, Z) of an image (N, 1, X, Y, Z) in [0, 1]."""
        a, b, c = image.shape[2:]
        logits: Tensor = self.network(F.pad(image, (0, -c % 16, 0, -b % 16, 0, -a % 16)))
        return logits[..., :a, :b, :c]

    def labels(self, image: Tensor) -> Tensor:
        """Labels (N, X, Y, Z) uint8 of an image: the class of the largest logit."""
        return self.forward(image).argmax(dim=1).byte()
