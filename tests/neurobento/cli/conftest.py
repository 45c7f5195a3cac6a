"""Fixtures of all commands: unchanged thread settings, and the check of a refusal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.neurobento.cli.messages import FOUR_PARTS


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the two variables that a command sets for its libraries."""
    for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        monkeypatch.setenv(name, "1")


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., re.Match[str]]:
    """Check that a command failed and wrote nothing; return the four parts of its message."""

    def check(status: int, folder: str = "out") -> re.Match[str]:
        assert status == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        assert not (tmp_path / folder).exists()
        (message,) = FOUR_PARTS.finditer(captured.err)
        return message

    return check
