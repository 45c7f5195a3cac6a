"""The base of networks for anomalies: an error map, and the score that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor, nn

from neurobento.imaging.geometry import SLICE_SHAPE

__all__ = ["REDUCTIONS", "AnomalyNetwork"]

PIXELS = SLICE_SHAPE[0] * SLICE_SHAPE[1]


def _mean(values: Tensor) -> Tensor:
    return values.mean(1)


def _largest(share: float) -> Callable[[Tensor], Tensor]:
    """Return a function that averages this share of the pixels, those with the largest error."""
    count = max(1, round(share * PIXELS))
    return lambda values: values.topk(count, dim=1).values.mean(1)


REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "mean": _mean,
        "root mean square": lambda values: values.square().mean(1).sqrt(),
        "mean of the largest 10 %": _largest(0.10),
        "mean of the largest 5 %": _largest(0.05),
        "mean of the largest 1 %": _largest(0.01),
        "maximum": lambda values: values.amax(1),
    }
)
"""Reductions of error maps (N, pixels) to scores (N,)."""


class AnomalyNetwork(nn.Module):
    """A network that maps how abnormal each pixel of a slice looks."""

    # True if `forward` returns logits of the error map instead of a reconstruction.
    gives_logits: ClassVar[bool] = False
    # True if it has `load_encoder`, `encode` and `decode`.
    has_encoder: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        # key of REDUCTIONS; chosen after training and kept with the weights
        self.reduction = "mean"

    def load_encoder(self, source: str) -> None:
        """Load the encoder's weights from "imagenet" or a file, and freeze them."""
        raise NotImplementedError

    def encode(self, image: Tensor) -> Tensor:
        """Return the encoder's features of images (N, 1, 128, 128) in [0, 1]."""
        raise NotImplementedError

    def decode(self, features: Tensor) -> Tensor:
        raise NotImplementedError

    def error_map(self, image: Tensor) -> Tensor:
        """Return errors (N, 128, 128), 0 or more, of images (N, 1, 128, 128) in [0, 1]."""
        raise NotImplementedError

    def detect(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (N,) and error maps (N, 128, 128) of images (N, 1, 128, 128) in [0, 1]."""
        errors = self.error_map(image)
        return REDUCTIONS[self.reduction](errors.flatten(1)), errors

    def get_extra_state(self) -> dict[str, str]:
        return {"reduction": self.reduction}

    def set_extra_state(self, state: dict[str, str]) -> None:
        """Load the reduction; a KeyError names an unknown one."""
        if state["reduction"] not in REDUCTIONS:
            raise KeyError(state["reduction"])
        self.reduction = state["reduction"]
