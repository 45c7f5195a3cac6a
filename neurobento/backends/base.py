"""The one seam between a network and everything that uses it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from neurobento.geometry import NETWORK_SHAPE
from neurobento.spec import ModelSpec

__all__ = ["Backend", "Images", "Labels", "check_images"]

Images = NDArray[np.float32]
"""(N, 1, 91, 122, 123) in [0, 1], RAS."""

Labels = NDArray[np.uint8]
"""(N, 91, 122, 123), class indices."""


class Backend(Protocol):
    """Runs one model.

    Attributes
    ----------
    name
        Such as "openvino".
    spec
        The model's contract.
    details
        Device, precision, threads and library version, for run.json.
    """

    name: str
    spec: ModelSpec
    details: dict[str, str]

    def infer(self, images: Images) -> Labels:
        """Labels of a batch of images; a batch of N gives what N singles give.

        Raises
        ------
        ValueError
            The images are not (N, 1, 91, 122, 123) float32.
        """

    def close(self) -> None:
        """Let go of the model; `infer` must not be called after."""


def check_images(images: Images) -> Images:
    """The images, contiguous, after a check of their shape and type."""
    if images.ndim != 5 or images.shape[1:] != (1, *NETWORK_SHAPE) or images.dtype != np.float32:
        raise ValueError(
            f"expected float32 images of shape (N, 1, {', '.join(map(str, NETWORK_SHAPE))}), "
            f"found {images.dtype} of shape {images.shape}"
        )
    return np.ascontiguousarray(images)
