"""Images on the network grid on their way between processes: in files, which messages name.

An image is 5.5 MB, and each service that it went through in a message would copy it
several times, on cores that the network could use. A file lies beside the upload that it
comes from and goes with it. One that is gone most likely belonged to a caller that left.
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

__all__ = ["MISSING", "has_missing", "open_image", "pack_paths", "segment_files", "write_image"]

NAME_BYTES = 1024
IMAGE_BYTES = 4 * math.prod(NETWORK_SHAPE)

MISSING = 255
"""Every label of an image that was not there, or not whole; class indices end at 116."""

Infer = Callable[[NDArray[np.float32]], NDArray[np.uint8]]


def write_image(path: Path, image: NDArray[np.float32]) -> None:
    """Write an image of any shape."""
    path.write_bytes(np.ascontiguousarray(image, np.float32).data)


def open_image(path: Path, shape: tuple[int, ...] = NETWORK_SHAPE) -> NDArray[np.float32]:
    """The image of a shape in a file, read when it is looked at."""
    return np.memmap(path, np.float32, "r", shape=shape)


def pack_paths(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """(N, 1024) uint8: names of files as an array, which BentoML can put into batches.

    Raises
    ------
    ValueError
        A name is too long.
    """
    names = [bytes(path) for path in paths]
    if max(map(len, names)) > NAME_BYTES:
        raise ValueError(f"expected names of at most {NAME_BYTES} bytes")
    return np.array([list(name.ljust(NAME_BYTES, b"\0")) for name in names], np.uint8)


def segment_files(
    names: NDArray[np.uint8], infer: Infer, waited: Callable[[float], None]
) -> NDArray[np.uint8]:
    """Labels (N, 91, 122, 123) of the images in files; `MISSING` everywhere of one that is gone.

    Parameters
    ----------
    names
        Of the files, as `pack_paths` gives them.
    infer
        Gives the labels of images (M, 1, 91, 122, 123).
    waited
        Told of each image how many seconds it lay in its file.
    """
    images = np.empty((len(names), 1, *NETWORK_SHAPE), np.float32)
    waits_s = [
        _read(Path(name.tobytes().rstrip(b"\0").decode()), images[i])
        for i, name in enumerate(names)
    ]
    for wait_s in waits_s:
        if wait_s is not None:
            waited(wait_s)
    there = [wait_s is not None for wait_s in waits_s]
    if all(there):
        return infer(images)
    labels = np.full((len(names), *NETWORK_SHAPE), MISSING, np.uint8)
    if any(there):
        labels[there] = infer(images[there])
    return labels


def has_missing(labels: NDArray[np.uint8]) -> bool:
    """Whether an image was gone, by the labels (N, 91, 122, 123) that `segment_files` gave."""
    return bool((labels[:, 0, 0, 0] == MISSING).any())


def _read(path: Path, image: NDArray[np.float32]) -> float | None:
    """Fill an image from a file; the seconds since it was written, None if it is not whole."""
    try:
        with path.open("rb") as file:
            wait_s = max(0.0, time.time() - os.fstat(file.fileno()).st_mtime)
            return wait_s if file.readinto(image.data) == IMAGE_BYTES else None
    except FileNotFoundError:
        return None
