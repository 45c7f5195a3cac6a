"""What the networks for anomalies share: an error map, and the score that is read off it."""

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
    """The mean of this share of the pixels, those of the largest error."""
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
"""Of an error map (N, pixels) to scores (N,)."""


class AnomalyNetwork(nn.Module):
    """Says of each pixel how little it looks like a healthy head's.

    Attributes
    ----------
    gives_logits
        Whether `forward` gives logits of the error map, and no reconstruction.
    reduction
        A key of `REDUCTIONS`: how the score follows from the error map. It is chosen
        after training, and travels with the weights.
    """

    gives_logits: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.reduction = "mean"

    def error_map(self, image: Tensor) -> Tensor:
        """(N, 128, 128), 0 or more, of images (N, 1, 128, 128) in [0, 1]."""
        raise NotImplementedError

    def detect(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (N,) and error maps (N, 128, 128) of images (N, 1, 128, 128) in [0, 1]."""
        errors = self.error_map(image)
        return REDUCTIONS[self.reduction](errors.flatten(1)), errors

    def get_extra_state(self) -> dict[str, str]:
        """What travels with the weights."""
        return {"reduction": self.reduction}

    def set_extra_state(self, state: dict[str, str]) -> None:
        """Take over what travelled with weights.

        Raises
        ------
        KeyError
            There is no such reduction.
        """
        if state["reduction"] not in REDUCTIONS:
            raise KeyError(state["reduction"])
        self.reduction = state["reduction"]
