"""Pass images on the network grid between processes as files, which messages name.

An image is 5.5 MB, and each service would copy it several times. The file lies beside its upload
and is removed with it, so a missing file most likely belonged to a client that left.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.spec import ModelSpec

__all__ = ["MISSING", "has_missing", "open_image", "pack_paths", "segment_files", "write_image"]

PATH_BYTES = 1024
IMAGE_BYTES = 4 * math.prod(NETWORK_SHAPE)

MISSING = 255
"""Every value of the answer to an image whose file was missing or cut short; class indices end at
116, and no atlas is so large."""

Infer = Callable[[NDArray[np.float32]], NDArray[np.generic]]


def write_image(path: Path, image: NDArray[np.float32]) -> None:
    path.write_bytes(np.ascontiguousarray(image, np.float32).data)


def open_image(path: Path, shape: tuple[int, ...] = NETWORK_SHAPE) -> NDArray[np.float32]:
    """Map an image from its file; it is read when its voxels are used."""
    return np.memmap(path, np.float32, "r", shape=shape)


def pack_paths(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Return paths as an array (N, 1024), since BentoML makes batches of arrays alone."""
    names = [bytes(path) for path in paths]
    if max(map(len, names)) > PATH_BYTES:
        raise ValueError(f"expected names of at most {PATH_BYTES} bytes")
    return np.array([list(name.ljust(PATH_BYTES, b"\0")) for name in names], np.uint8)


def segment_files(
    paths: NDArray[np.uint8], spec: ModelSpec, infer: Infer, on_wait: Callable[[float], None]
) -> NDArray[np.generic]:
    """Return a model's answers (N, ...) to images in files, `MISSING` throughout where a file is.

    `on_wait` is called for each image with the seconds since its file was written.
    """
    images = np.empty((len(paths), 1, *NETWORK_SHAPE), np.float32)
    waits_s = [
        _read(Path(path.tobytes().rstrip(b"\0").decode()), images[i])
        for i, path in enumerate(paths)
    ]
    for wait_s in waits_s:
        if wait_s is not None:
            on_wait(wait_s)
    is_whole = [wait_s is not None for wait_s in waits_s]
    if all(is_whole):
        return infer(images)
    tensor = spec.outputs[spec.answer]
    answers = np.full((len(paths), *tensor.shape), MISSING, tensor.dtype)
    if any(is_whole):
        answers[is_whole] = infer(images[is_whole])
    return answers


def has_missing(answers: NDArray[np.generic]) -> bool:
    """Return True if the file of an image was missing, given the answers (N, ...)."""
    return bool((answers[:, 0, 0, 0] == MISSING).any())


def _read(path: Path, image: NDArray[np.float32]) -> float | None:
    """Fill an image from its file; return the file's age in seconds, None if it is not whole."""
    try:
        with path.open("rb") as file:
            wait_s = max(0.0, time.time() - os.fstat(file.fileno()).st_mtime)
            return wait_s if file.readinto(image.data) == IMAGE_BYTES else None
    except FileNotFoundError:
        return None
