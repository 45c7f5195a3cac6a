"""Time the steps of preprocessing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from neurobento.preprocessing.mode import Progress

__all__ = ["Clock"]


class Clock:
    """Times named steps and reports each as it begins."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        self._progress(step)
        start = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - start
