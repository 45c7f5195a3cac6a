"""A network and its loss as one module: what a training step calls, on one device or many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from neurobento.errors import ConfigError
from neurobento.networks.atlas_map import AtlasMap
from neurobento.networks.layers import POSITIONS
from training.parcellation.loss import dice, dice_cross_entropy, position_loss

__all__ = ["Objective"]

CHECKPOINTED = ("ResidualUnit", "HighResBlock", "Residual")
"""Classes of blocks whose activations gradient checkpointing computes again."""


class Objective(nn.Module):
    """The loss of a batch: the mean of its scans'; batch norms see one scan at a time.

    Parameters
    ----------
    network
        What is trained.
    loss
        "positions" for networks that predict atlas positions, else "dice" (report
        A's) or "dice_cross_entropy", of a sample of the voxels.
    checkpointing
        Keep only the inputs of residual blocks and compute their activations
        again in the backward pass: less memory for about a third more time.

    Attributes
    ----------
    order
        A permutation of a block's eight voxels: which of them the networks'
        `sampled_logits` take.

    Raises
    ------
    ConfigError
        The loss does not fit the network.
    """

    def __init__(self, network: nn.Module, loss: str, *, checkpointing: bool = False) -> None:
        super().__init__()
        if (loss == "positions") != isinstance(network, AtlasMap):
            raise ConfigError(
                subject="loss",
                expected='"positions" for atlas_map, another for all other networks',
                found=repr(loss),
                remedy="Correct the recipe.",
            )
        self.network, self.loss = network, loss
        self.order: Sequence[int] = range(len(POSITIONS))
        if checkpointing:
            for module in network.modules():
                if type(module).__name__ in CHECKPOINTED:
                    _checkpoint(module)

    def forward(self, image: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        """The loss, a scalar.

        Parameters
        ----------
        image
            (N, 1, X, Y, Z) float32 in [0, 1].
        labels
            (N, X, Y, Z) uint8.
        positions
            (N, 3, X/2, Y/2, Z/2) float32, RAS mm in the atlas's world.
        """
        # scan by scan: several processes learn from their mean what one does
        scans = zip(image.split(1), labels.split(1), positions.split(1), strict=True)
        return torch.stack([self._of_a_scan(*scan) for scan in scans]).mean()

    def _of_a_scan(self, image: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        if self.loss == "positions":
            assert isinstance(self.network, AtlasMap)
            return position_loss(self.network, image, positions)
        if self.loss == "dice":
            return dice(self.network(image), labels)
        # a part of the voxels teaches as well as all of them, at a part of the price
        return dice_cross_entropy(*self.network.sampled_logits(image, labels, self.order))


def _checkpoint(module: nn.Module) -> None:
    """Let a module compute its activations again in the backward pass."""
    inside = module.forward

    def forward(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return inside(*inputs)
        contexts = (nullcontext(), _statistics_kept(module))
        return checkpoint(inside, *inputs, use_reentrant=False, context_fn=lambda: contexts)

    module.forward = forward  # type: ignore[method-assign]


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms inside do not count a second time what they see again."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    before = [(m.momentum, m.num_batches_tracked) for m in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
