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
from neurobento.networks.layers import POSITIONS
from neurobento.networks.parcellation import ParcellationNetwork
from training.parcellation.loss import LOSSES

__all__ = ["Objective"]


class Objective(nn.Module):
    """The loss of a batch: the mean of its scans'; batch norms see one scan at a time.

    With `checkpointing`, `recomputed_blocks` need less memory for about a third more time.
    """

    def __init__(
        self, network: ParcellationNetwork, loss: str, *, checkpointing: bool = False
    ) -> None:
        super().__init__()
        if loss not in network.losses:
            raise ConfigError(
                subject="loss",
                expected=f"one of {', '.join(network.losses)} for this network",
                found=repr(loss),
                remedy="Correct the recipe.",
            )
        self.network, self.loss = network, LOSSES[loss]
        # a permutation of a block's eight voxels: which of them `sampled_logits` takes
        self.order: Sequence[int] = range(len(POSITIONS))
        if checkpointing:
            for module in network.modules():
                if isinstance(module, network.recomputed_blocks):
                    _checkpoint(module)

    def forward(self, image: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        """Return the loss, a scalar, of images (N, 1, X, Y, Z) float32 in [0, 1].

        Labels are (N, X, Y, Z) uint8, positions (N, 3, X/2, Y/2, Z/2) RAS mm in the atlas's world.
        """
        # scan by scan: several processes learn from their mean what one does
        scans = zip(*(torch.split(part, 1) for part in (image, labels, positions)), strict=True)
        return torch.stack([self.loss(self.network, *scan, self.order) for scan in scans]).mean()


def _checkpoint(module: nn.Module) -> None:
    """Make a module compute its activations again in the backward pass."""
    original = module.forward

    def forward(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return original(*inputs)
        contexts = (nullcontext(), _statistics_kept(module))
        return checkpoint(original, *inputs, use_reentrant=False, context_fn=lambda: contexts)

    module.forward = forward  # type: ignore[method-assign]


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keep batch norms from counting a second time what they see again."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    before = [(m.momentum, m.num_batches_tracked) for m in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
