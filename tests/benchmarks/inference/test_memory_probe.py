"""The probe reads what the kernel says of its own process."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.inference.memory_probe import memory_bytes


def test_a_peak_stays_when_the_memory_is_given_back() -> None:
    before = memory_bytes("VmRSS")
    block = np.ones(25 << 20, np.float64)
    held = memory_bytes("VmRSS")
    del block
    assert held - before > 190 << 20
    # the kernel counts pages in lots, so the two may differ by a few
    assert memory_bytes("VmHWM") > held - (1 << 20)
    assert memory_bytes("VmRSS") < held - (190 << 20)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match="VmTaste"):
        memory_bytes("VmTaste")
