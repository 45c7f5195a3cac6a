"""Out of memory or disk is told apart from everything else that may go wrong."""

from __future__ import annotations

import errno

import pytest

from neurobento.errors import ServiceUnavailable
from neurobento.serving.process.exhaustion import exhaustion_error, map_exhaustion


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), "memory"),
        (OSError(errno.ENOMEM, "/patients/jane"), "memory"),
        (OSError(errno.ENOSPC, "/patients/jane"), "disk space"),
        (OSError(errno.EDQUOT, "/patients/jane"), "disk space"),
    ],
)
def test_no_room_is_said_with_a_time_to_come_again(error: Exception, what: str) -> None:
    with pytest.raises(ServiceUnavailable, match=what) as caught, map_exhaustion():
        raise error
    assert caught.value.retry_after_s
    assert "jane" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOENT, "gone"), OSError("what"), ValueError("memory")]
)
def test_anything_else_stays_what_it_is(error: Exception) -> None:
    assert exhaustion_error(error) is None
    with pytest.raises(type(error)) as caught, map_exhaustion():
        raise error
    assert caught.value is error
