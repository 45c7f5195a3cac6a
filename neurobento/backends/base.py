"""The interface of a backend, which runs one model."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.atlas import Atlas
from neurobento.spec import ModelSpec

__all__ = ["Backend", "ImageBatch", "LabelBatch", "OutputBatch", "check_images", "empty_outputs"]

ImageBatch = NDArray[np.float32]
"""(N, 1, 91, 122, 123) in [0, 1], RAS; for an anomaly model (N, 1, 128, 128)."""

LabelBatch = NDArray[np.uint8]
"""(N, 91, 122, 123), class indices."""

OutputBatch = dict[str, NDArray[np.generic]]
"""The graph's outputs by name, batch axis first; see `neurobento.spec.MODEL_TASKS`."""


class Backend(ABC):
    """Runs one model."""

    # Such as "openvino".
    name: str
    spec: ModelSpec
    # Device, precision, threads and library version, for run.json.
    details: dict[str, str]
    # What the positions refer to, if the model gives any.
    atlas: Atlas | None = None

    @abstractmethod
    def run(self, images: ImageBatch) -> OutputBatch:
        """Return the outputs for images of (N, *input_shape), equal to those of N single images."""

    def infer(self, images: ImageBatch) -> LabelBatch:
        """Return a parcellation model's labels for a batch of images; raises as `run` does."""
        labels: LabelBatch = self.run(images)["labels"]  # type: ignore[assignment]
        return labels

    def answer(self, images: ImageBatch) -> NDArray[np.generic]:
        """Return what `neurobento.parcellation.answer` makes labels from; raises as `run` does."""
        return self.run(images)[self.spec.answer]

    @abstractmethod
    def close(self) -> None:
        """Release the model; `run` must not be called afterwards."""


def check_images(images: ImageBatch, spec: ModelSpec) -> ImageBatch:
    """Check the shape and type of the images and return them contiguous."""
    if images.shape[1:] != spec.input_shape or images.dtype != np.float32:
        raise ValueError(
            f"expected float32 images of shape (N, {', '.join(map(str, spec.input_shape))}), "
            f"found {images.dtype} of shape {images.shape}"
        )
    return np.ascontiguousarray(images)


def empty_outputs(spec: ModelSpec, count: int) -> OutputBatch:
    """Return empty arrays for the graph's outputs on `count` images."""
    return {
        name: np.empty((count, *tensor.shape), dtype=tensor.dtype)
        for name, tensor in spec.outputs.items()
    }
