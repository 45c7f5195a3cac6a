"""Write files for the tests of slices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.neurobento.imaging.slices.checks import Writer


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def to(content: bytes, name: str = "JANE_DOE.bin") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return to
