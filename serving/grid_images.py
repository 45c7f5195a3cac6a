"""Images on the network grid on their way between processes: in files, which messages name.

An image is 5.5 MB, and each service that it went through in a message would copy it
several times, on cores that the network could use. A file lies beside the upload that it
comes from and goes with it. One that is gone belonged to a caller that left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurobento.geometry import NETWORK_SHAPE

__all__ = ["labels_of", "names_of", "open_image", "write_image"]

NAME_BYTES = 1024
IMAGE_BYTES = 4 * math.prod(NETWORK_SHAPE)

Infer = Callable[[NDArray[np.float32]], NDArray[np.uint8]]


def write_image(path: Path, image: NDArray[np.float32]) -> None:
    """Write an image (91, 122, 123)."""
    path.write_bytes(np.ascontiguousarray(image, np.float32).data)


def open_image(path: Path) -> NDArray[np.float32]:
    """The image (91, 122, 123) in a file, read when it is looked at."""
    return np.memmap(path, np.float32, "r", shape=NETWORK_SHAPE)


def names_of(paths: Sequence[Path]) -> NDArray[np.uint8]:
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


def labels_of(names: NDArray[np.uint8], infer: Infer) -> NDArray[np.uint8]:
    """Labels (N, 91, 122, 123) of the images in files; zeros of one that is gone.

    Parameters
    ----------
    names
        Of the files, as `names_of` gives them.
    infer
        Gives the labels of images (M, 1, 91, 122, 123).
    """
    images = np.empty((len(names), 1, *NETWORK_SHAPE), np.float32)
    there = [
        _read(Path(name.tobytes().rstrip(b"\0").decode()), images[i])
        for i, name in enumerate(names)
    ]
    labels = np.zeros((len(names), *NETWORK_SHAPE), np.uint8)
    if any(there):
        labels[there] = infer(images if all(there) else images[there])
    return labels


def _read(path: Path, image: NDArray[np.float32]) -> bool:
    """Fill an image from a file, if it is there and whole."""
    try:
        with path.open("rb") as file:
            return file.readinto(image.data) == IMAGE_BYTES
    except FileNotFoundError:
        return False
