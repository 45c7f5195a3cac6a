"""A machine that is out of memory or disk: the service's trouble, to be said as such."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from neurobento.errors import ServiceUnavailable

__all__ = ["needs_room", "no_room"]

LACKING = {errno.ENOMEM: "memory", errno.ENOSPC: "disk space", errno.EDQUOT: "disk space"}
"""What the system has none of, by its number for that."""


def no_room(error: BaseException) -> ServiceUnavailable | None:
    """What to tell a client if an error says that there is no room; None if it says anything else.

    Parameters
    ----------
    error
        Any.
    """
    if isinstance(error, MemoryError):
        what = "memory"
    elif isinstance(error, OSError) and error.errno in LACKING:
        what = LACKING[error.errno]
    else:
        return None
    return ServiceUnavailable(
        expected=f"{what} for one more scan",
        found="none left",
        remedy="Try again later, or give the service more.",
        retry_after_s=30.0,
    )


@contextlib.contextmanager
def needs_room() -> Iterator[None]:
    """What happens in the context may find no room.

    Raises
    ------
    ServiceUnavailable
        It did.
    """
    try:
        yield
    except (MemoryError, OSError) as error:
        found = no_room(error)
        if found is None:
            raise
        raise found from None
