"""What came with a request, in a folder that goes with it."""

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
    """A folder for what a request brought, for as long as the context lasts.

    Raises
    ------
    ServiceUnavailable
        There is no room for one.
    """
    with contextlib.ExitStack() as stack:
        with map_exhaustion():
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix=UPLOAD_PREFIX))
        yield Path(made)


@contextlib.asynccontextmanager
async def uploaded_file(content: bytes) -> AsyncIterator[Path]:
    """A file that a request brought, for as long as the context lasts.

    Raises
    ------
    ServiceUnavailable
        There is no room for it.
    """
    with upload_folder() as folder:
        file = folder / "scan"
        with map_exhaustion():
            await to_thread.run_sync(file.write_bytes, content)
        yield file
