"""The base of networks that label a brain's regions: what training asks of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

__all__ = ["ParcellationNetwork"]


class ParcellationNetwork(nn.Module):
    """A network that labels a brain's regions and says what it needs to learn.

    A new network is a subclass in a file of its own and a line of `neurobento.networks.PRESETS`.
    """

    # Names of the losses in `training.parcellation.loss` that suit it.
    losses: ClassVar[tuple[str, ...]] = ("dice_cross_entropy", "dice")
    # True if it cannot learn from patches.
    needs_whole_image: ClassVar[bool] = False
    # True if training calls `take_atlas` first.
    needs_atlas: ClassVar[bool] = False
    # Edge, in voxels, of the blocks whose positions `atlas_positions` gives; 0 if it gives none.
    position_block: ClassVar[int] = 0
    # Preset whose weights a new run has to start from.
    starts_from: ClassVar[str | None] = None
    # Blocks whose activations gradient checkpointing computes again.
    recomputed_blocks: ClassVar[tuple[type[nn.Module], ...]] = ()
    # True if `hold_mixing` is available.
    can_hold_mixing: ClassVar[bool] = False
    # False while the layer that `hold_mixing` simplifies sees no neighbouring voxels.
    mixing: bool = True

    def labels(self, image: Tensor) -> Tensor:
        """Return labels (N, X, Y, Z) uint8 of images (N, 1, X, Y, Z) float32 in [0, 1]."""
        labels: Tensor = self(image).argmax(dim=1).byte()
        return labels

    def outputs(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return what an exported graph gives, in its order: labels, then positions if any."""
        return (self.labels(image),)

    def sampled_logits(
        self, image: Tensor, labels: Tensor, order: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return logits (V, C) and labels (V,) int64 of the voxels that a training step uses.

        `order` is a permutation of `layers.POSITIONS` that selects them.
        """
        raise NotImplementedError

    def take_weights(self, other: nn.Module) -> None:
        """Start from the weights of another network; a RuntimeError says that they do not fit."""
        self.load_state_dict(other.state_dict())

    def take_atlas(self, labels: Tensor, brain: Tensor, voxel_to_ras: Tensor) -> None:
        """Keep the atlas; a ValueError says why it does not suit."""
        raise NotImplementedError

    def atlas_positions(self, image: Tensor) -> Tensor:
        """Return where each block of an image (N, 1, X, Y, Z) lies in the atlas, RAS mm.

        The positions are (N, 3, ...), one for each block of `position_block` voxels.
        """
        raise NotImplementedError

    def hold_mixing(self) -> None:
        """Simplify the costliest layer for the first part of training."""
        raise NotImplementedError
