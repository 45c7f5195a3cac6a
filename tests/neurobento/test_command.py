"""How a command ends: its status and its last line."""

from __future__ import annotations

import errno
import os

import pytest

from neurobento.command import run


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "tool: interrupted"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a"), 1, "tool: a: No space left"),
        (OSError(errno.ESPIPE, os.strerror(errno.ESPIPE)), 1, "tool: Illegal seek"),
        (OSError("not a gzip file"), 1, "tool: not a gzip file"),
    ],
)
def test_a_command_ends_with_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise error

    assert run(command, "tool") == status
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(line)
