"""The pool of processes: answers, errors, and the death of a child."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobento.errors import UnknownFormat
from serving.pool import PreprocessingPool
from serving.wire import unpack


@pytest.fixture(scope="module")
def pool() -> Iterator[PreprocessingPool]:
    pool = PreprocessingPool(processes=1, threads=1)
    pool.warm_up()
    yield pool
    pool.close()


@pytest.fixture
def image(known_labels: Callable[[int], Any]) -> Any:
    return (known_labels(31) / np.float32(116)).astype(np.float32)


@pytest.fixture
def scan(write_nifti: Callable[..., Path], image: Any) -> Path:
    return write_nifti(image)


def children(pool: PreprocessingPool) -> list[int]:
    return list(pool._executor._processes)


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that its parent has yet to see."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.slow
def test_a_scan_comes_back_prepared(pool: PreprocessingPool, scan: Path, image: Any) -> None:
    prepared = unpack(pool.prepare(scan, "none"))
    assert np.array_equal(prepared.image, image)
    assert prepared.level == "none"


def test_the_work_is_done_in_another_process(pool: PreprocessingPool, scan: Path) -> None:
    pool.prepare(scan, "none")
    assert len(children(pool)) == 1
    assert os.getpid() not in children(pool)


def test_a_scan_that_fails_gives_a_packed_error_and_the_pool_lives_on(
    pool: PreprocessingPool, scan: Path, tmp_path: Path
) -> None:
    before = children(pool)
    text = tmp_path / "JANE_DOE.nii"
    text.write_text("not a scan\n" * 100)
    packed = pool.prepare(text, "none")
    assert packed["error"] == "UnknownFormat"
    assert "JANE_DOE" not in repr(packed)
    with pytest.raises(UnknownFormat):
        unpack(packed)
    assert "image" in pool.prepare(scan, "none")
    assert children(pool) == before


@pytest.mark.slow
def test_a_killed_child_breaks_one_call_and_not_the_next(
    pool: PreprocessingPool, scan: Path
) -> None:
    (child,) = children(pool)
    os.kill(child, signal.SIGKILL)
    with pytest.raises(BrokenProcessPool):
        for _ in range(100):  # the pool sees the death a moment later
            pool.prepare(scan, "none")
    assert "image" in pool.prepare(scan, "none")
    assert children(pool) != [child]


def test_closing_ends_the_children() -> None:
    pool = PreprocessingPool(processes=1, threads=1)
    child = pool._executor.submit(os.getpid).result()
    assert not ended(child)
    pool.close()
    deadline = time.monotonic() + 10
    while not ended(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ended(child)
