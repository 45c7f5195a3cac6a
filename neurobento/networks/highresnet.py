"""Report A's HighResNet: MONAI's, with the parameters of its section 3.6.

A convolution dilated by two never mixes even and odd voxels. So training keeps every second voxel
from the second stage on and every fourth from the third: exact logits, a twelfth of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import HighResNet
from monai.networks.nets.highresnet import HighResBlock
from torch import Tensor, nn

from neurobento.labels import CLASS_COUNT
from neurobento.networks.layers import POSITIONS
from neurobento.networks.parcellation import ParcellationNetwork

__all__ = ["ReportHighResNet", "highresnet"]


def highresnet() -> ReportHighResNet:
    """Build the network exactly as the report states it: 3 dimensions, 1 channel in, 117 out."""
    return ReportHighResNet(HighResNet(spatial_dims=3, in_channels=1, out_channels=CLASS_COUNT))


class ReportHighResNet(ParcellationNetwork):
    """MONAI's HighResNet; it has no strides, so it takes images of any shape."""

    recomputed_blocks = (HighResBlock,)

    def __init__(self, network: HighResNet) -> None:
        super().__init__()
        self.network = network
        self._dilations = [
            max(m.dilation[0] for m in _convolutions(block)) for block in network.blocks
        ]

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, 117, X, Y, Z) of an image (N, 1, X, Y, Z) in [0, 1]."""
        self._set_dilations(skipping=False)
        logits: Tensor = self.network(image)
        return logits

    def sampled_logits(
        self, image: Tensor, labels: Tensor, order: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return logits (V, C) and labels (V,) int64 of one voxel in 4 x 4 x 4, by `order[:2]`.

        Batch norms see these voxels alone.
        """
        self._set_dilations(skipping=True)
        x, chosen = image, labels[:, None]
        step = 1
        for block, dilation in zip(self.network.blocks, self._dilations, strict=True):
            if dilation > step:
                a, b, c = POSITIONS[order[step // 2]]
                x, chosen = x[..., a::2, b::2, c::2], chosen[..., a::2, b::2, c::2]
                step = dilation
            x = block(x)
        return x.movedim(1, -1).flatten(0, 3), chosen.flatten().long()

    def _set_dilations(self, *, skipping: bool) -> None:
        """Dilate as the report does or not at all, also for gradient checkpointing later."""
        for block, dilation in zip(self.network.blocks, self._dilations, strict=True):
            wanted = 1 if skipping else dilation
            for module in _convolutions(block):
                if dilation > 1 and module.dilation[0] != wanted:
                    module.dilation = module.padding = (wanted, wanted, wanted)


def _convolutions(block: nn.Module) -> list[nn.Conv3d]:
    return [m for m in block.modules() if isinstance(m, nn.Conv3d)]
