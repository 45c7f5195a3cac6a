"""Map out-of-memory and disk-full errors to ServiceUnavailable (503)."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from neurobento.errors import ServiceUnavailable

__all__ = ["exhaustion_error", "map_exhaustion"]

EXHAUSTED = {errno.ENOMEM: "memory", errno.ENOSPC: "disk space", errno.EDQUOT: "disk space"}
"""The system's error number -> what has run out."""


def exhaustion_error(error: BaseException) -> ServiceUnavailable | None:
    """Return the error for a client if memory or disk space ran out, None for anything else."""
    if isinstance(error, MemoryError):
        resource = "memory"
    elif isinstance(error, OSError) and error.errno in EXHAUSTED:
        resource = EXHAUSTED[error.errno]
    else:
        return None
    return ServiceUnavailable(
        expected=f"{resource} for one more scan",
        found="none left",
        remedy="Try again later, or give the service more.",
        retry_after_s=30.0,
    )


@contextlib.contextmanager
def map_exhaustion() -> Iterator[None]:
    """Raise ServiceUnavailable where the context runs out of memory or disk space."""
    try:
        yield
    except (MemoryError, OSError) as error:
        mapped = exhaustion_error(error)
        if mapped is None:
            raise
        raise mapped from None
