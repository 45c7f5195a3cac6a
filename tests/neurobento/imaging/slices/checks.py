"""Check refusals, and measure what reading costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neurobento.errors import ScanError
from neurobento.imaging.slices.limits import SliceLimits
from neurobento.imaging.slices.reader import read_slice

ROOT = Path(__file__).resolve().parents[4]

Writer = Callable[..., Path]


def refusal(path: Path, leaf: type[ScanError], limits: SliceLimits | None = None) -> ScanError:
    """Return the error: exactly this leaf, naming the file to the caller only."""
    with pytest.raises(ScanError) as caught:
        read_slice(path, limits)
    error = caught.value
    assert type(error) is leaf
    assert not leaf.__subclasses__()
    assert error.subject == str(path)
    assert path.name not in error.public_message
    assert "JANE" not in error.public_message
    assert error.expected
    assert error.found
    assert error.remedy.endswith(".")
    assert error.__cause__ is None
    return error


MEASURE = """
import sys
from pathlib import Path
from neurobento.errors import ScanError
from neurobento.imaging.slices.reader import read_slice
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
read_slice(Path(sys.argv[1]))
before = peak()
for path in sys.argv[2:]:
    try:
        read_slice(Path(path))
        print("read")
    except ScanError as error:
        print(type(error).__name__)
    print((peak() - before) // 1024)
"""


def cost(small: Path, *paths: Path) -> list[tuple[str, int]]:
    """Return each file's outcome and the peak memory so far in MiB, from a process of its own."""
    command = [sys.executable, "-c", MEASURE, *map(str, [small, *paths])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    words = done.stdout.split()
    return [(o, int(m)) for o, m in zip(words[::2], words[1::2], strict=True)]
