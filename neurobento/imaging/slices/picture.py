"""Read a slice from a PNG or JPEG file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import ScanError, TruncatedScan
from neurobento.imaging.slices.limits import SliceLimits, check_size, more_than_one, too_large
from neurobento.imaging.slices.quiet import without_warnings

__all__ = ["PICTURE_MAGICS", "read_picture"]

PICTURE_MAGICS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def read_picture(content: bytes, limits: SliceLimits) -> NDArray[np.float32]:
    """Return the luminance of a PNG or JPEG image, (rows, columns) float32."""
    from PIL import Image, ImageOps

    try:
        with without_warnings(), Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            check_size(image.height, image.width, limits)
            if (frames := int(getattr(image, "n_frames", 1))) > 1:
                raise more_than_one(frames)
            image.load()
            # Viewers apply the EXIF orientation; so do we.
            return _luminance(ImageOps.exif_transpose(image))
    except (ScanError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise too_large("more pixels than Pillow unpacks", limits) from None
    # Pillow raises almost any exception for data that is cut short or damaged.
    except Exception:
        raise TruncatedScan(
            expected="a whole PNG or JPEG image",
            found="an image that ends early or is damaged",
            remedy="Write the image again from its source.",
        ) from None


def _luminance(image: Any) -> NDArray[np.float32]:
    from PIL import Image

    # Modes I and F have one channel already, of 16 or 32 bits.
    if image.mode.startswith(("I", "F")):
        return np.asarray(image, dtype=np.float32)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.asarray(image.convert("L"), dtype=np.float32)
