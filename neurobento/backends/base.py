"""The one seam between a network and everything that uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from neurobento.spec import ModelSpec

__all__ = ["Backend", "ImageBatch", "LabelBatch", "OutputBatch", "check_images", "empty_outputs"]

ImageBatch = NDArray[np.float32]
"""(N, 1, 91, 122, 123) in [0, 1], RAS; of an anomaly model (N, 1, 128, 128)."""

LabelBatch = NDArray[np.uint8]
"""(N, 91, 122, 123), class indices."""

OutputBatch = dict[str, NDArray[np.generic]]
"""What the graph gives by name, the batch along the first axis; see `neurobento.spec.MODEL_TASKS`."""


class Backend(ABC):
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

    @abstractmethod
    def run(self, images: ImageBatch) -> OutputBatch:
        """What the graph gives of a batch of images; a batch of N gives what N singles give.

        Raises
        ------
        ValueError
            The images are not float32 of (N, *input_shape).
        """

    def infer(self, images: ImageBatch) -> LabelBatch:
        """Labels of a batch of images, of a parcellation model; raises as `run` does."""
        labels: LabelBatch = self.run(images)["labels"]  # type: ignore[assignment]
        return labels

    @abstractmethod
    def close(self) -> None:
        """Let go of the model; `run` must not be called after."""


def check_images(images: ImageBatch, spec: ModelSpec) -> ImageBatch:
    """The images, contiguous, after a check of their shape and type."""
    if images.shape[1:] != spec.input_shape or images.dtype != np.float32:
        raise ValueError(
            f"expected float32 images of shape (N, {', '.join(map(str, spec.input_shape))}), "
            f"found {images.dtype} of shape {images.shape}"
        )
    return np.ascontiguousarray(images)


def empty_outputs(spec: ModelSpec, count: int) -> OutputBatch:
    """Room for what the graph gives of so many images."""
    return {
        name: np.empty((count, *tensor.shape), dtype=tensor.dtype)
        for name, tensor in spec.outputs.items()
    }
