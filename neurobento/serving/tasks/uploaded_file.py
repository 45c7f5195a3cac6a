"""Keep what a request brought in a temporary folder that lasts as long as the request."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from anyio import to_thread

from neurobento.serving.process.exhaustion import map_exhaustion

__all__ = ["UPLOAD_PREFIX", "upload_folder", "uploaded_file"]

UPLOAD_PREFIX = "neurobento-upload-"


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """Make a folder for the context; raise ServiceUnavailable if the disk is full."""
    with contextlib.ExitStack() as stack:
        with map_exhaustion():
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix=UPLOAD_PREFIX))
        yield Path(made)


@contextlib.asynccontextmanager
async def uploaded_file(content: bytes) -> AsyncIterator[Path]:
    """Write a file for the context; raise ServiceUnavailable if the disk is full."""
    with upload_folder() as folder:
        file = folder / "scan"
        with map_exhaustion():
            await to_thread.run_sync(file.write_bytes, content)
        yield file
