"""What the front service does with a slice: fit, score, restore, hand over."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from anyio import CapacityLimiter, to_thread
from numpy.typing import NDArray

from neurobento.anomaly.detector import slice_anomaly
from neurobento.anomaly.thresholds import slice_threshold
from neurobento.serving.admission import Admission, Kind
from neurobento.serving.pool.serialisation import PreparedSlice, unpack_slice
from neurobento.serving.request import RequestContext
from neurobento.serving.tasks.anomaly.batches import unpack_outputs
from neurobento.serving.tasks.anomaly.responses import ENCODERS, Detection
from neurobento.serving.tasks.handler import PreprocessingService, Runner, TaskHandler
from neurobento.serving.telemetry.metrics import observe_stages, time_stage
from neurobento.serving.telemetry.tracing import record_stage_spans, span
from neurobento.spec import ModelSpec

__all__ = ["AnomalyHandler", "thresholds_of"]

Result = TypeVar("Result")

KIND: Kind = "slice"

AT_ONCE = 2
"""Answers that are worked out at the same time: each of the largest slice holds some of its
pictures in memory, and there are as many callers as places."""


class Detector(Runner, Protocol):
    """A network's runner as this front calls it."""

    async def detect(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """What is found in images (N, 1, 128, 128); see `neurobento.serving.tasks.anomaly.batches`."""


class AnomalyHandler(TaskHandler[Detector]):
    """Answers requests about anomalies; see `TaskHandler`.

    Parameters
    ----------
    preprocessing, runners, admission, batches
        As of every front.
    thresholds
        Model name -> the score above which a slice is called anomalous.
    """

    task = "anomaly"

    def __init__(
        self,
        preprocessing: PreprocessingService,
        runners: Mapping[str, Detector],
        admission: Admission,
        batches: Mapping[str, int],
        thresholds: Mapping[str, float],
    ) -> None:
        super().__init__(preprocessing, runners, admission, batches)
        self._thresholds = dict(thresholds)
        self._workers = CapacityLimiter(AT_ONCE)

    async def answer(self, file: Path, model: str, media_type: str, call: RequestContext) -> bytes:
        """What is found in a slice's file, as JSON, a picture, or a zip of both and more.

        Raises as `detect` does.
        """

        async def work() -> bytes:
            detection = await self._detect(file, model, call)
            with time_stage("encode", model), span("encode"):
                return await self._worked_out(ENCODERS[media_type], detection, call.id)

        return await self._answered(call, model, KIND, work)

    async def detect(self, file: Path, model: str, call: RequestContext) -> Detection:
        """What is found in a slice's file.

        Raises
        ------
        ModelNotFound
            There is no such model for the task.
        ScanError, PreprocessingError
            The slice cannot be used.
        ServiceBusy, ServiceUnavailable
            Not now; both say when.
        DeadlineExceeded, ClientGone
            The work was ended, in all processes.
        """
        work = functools.partial(self._detect, file, model, call)
        return await self._answered(call, model, KIND, work)

    async def score(
        self, images: NDArray[np.float32], model: str, call: RequestContext
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores (N,) and error maps (N, 128, 128) of images (N, 1, 128, 128).

        Raises as `detect` does.
        """

        async def work() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            with time_stage("infer", model):
                return await self._score(images, model)

        return await self._answered(call, model, KIND, work, len(images))

    async def _detect(self, file: Path, model: str, call: RequestContext) -> Detection:
        prepared = unpack_slice(await self._prepared(file, KIND, call))
        record_stage_spans(prepared.seconds)
        facts = await self.facts(model)
        start = time.perf_counter()
        scores, maps = await self._score(prepared.fitted.image[None, None], model)
        seconds = {**prepared.seconds, "infer": time.perf_counter() - start}
        with span("restore"):
            restore = functools.partial(_restored, prepared, facts, seconds)
            threshold = self._thresholds[model]
            found = await self._worked_out(restore, float(scores[0]), maps[0], threshold)
        observe_stages(model, found.seconds)
        return found

    async def _score(
        self, images: NDArray[np.float32], model: str
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of images, in pieces that fit into a batch: one after the other, to let others in."""
        most = self._batches[model]
        found = []
        with span("infer", model=model):
            for first in range(0, len(images), most):
                found.append(await self._score_piece(images[first : first + most], model))
        scores, maps = zip(*found, strict=True)
        return np.concatenate(scores), np.concatenate(maps)

    async def _score_piece(
        self, images: NDArray[np.float32], model: str
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        start = time.perf_counter()
        rows = await self._in_room(model, lambda runner: runner.detect(images))
        scores, maps, network_s = unpack_outputs(rows)
        waited_s = max(0.0, time.perf_counter() - start - network_s)
        for _ in images:
            observe_stages(model, {"queue": waited_s})
        return scores, maps

    async def _worked_out(self, work: Callable[..., Result], *of: Any) -> Result:
        return await to_thread.run_sync(work, *of, limiter=self._workers)


def thresholds_of(specs: Sequence[ModelSpec]) -> dict[str, float]:
    """Name of a model for anomalies -> the score above which it calls a slice anomalous.

    Raises
    ------
    SpecMismatch
        A spec states none.
    """
    return {spec.name: slice_threshold(spec) for spec in specs if spec.task == AnomalyHandler.task}


def _restored(
    prepared: PreparedSlice,
    facts: dict[str, Any],
    seconds: dict[str, float],
    score: float,
    error_map: NDArray[np.float32],
    threshold: float,
) -> Detection:
    start = time.perf_counter()
    anomaly = slice_anomaly(prepared.fitted, score, error_map, threshold)
    seconds = {**seconds, "restore": time.perf_counter() - start}
    return Detection(prepared.pixels, anomaly, error_map, facts, seconds)
