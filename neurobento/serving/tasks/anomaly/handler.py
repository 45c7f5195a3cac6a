"""Handle anomaly requests: fit the slice, score it, restore the heat map, encode the answer."""

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

__all__ = ["AnomalyHandler", "model_thresholds"]

Result = TypeVar("Result")
ScoresAndMaps = tuple[NDArray[np.float32], NDArray[np.float32]]

KIND: Kind = "slice"

MAX_THREADS = 2
"""Responses encoded at the same time: each may hold several large pictures in memory."""


class Detector(Runner, Protocol):
    """The runner of an anomaly model."""

    async def detect(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return packed scores and error maps of images (N, 1, 128, 128) (see `batches`)."""


class AnomalyHandler(TaskHandler[Detector]):
    """Handle requests about anomalies; a slice is anomalous above its model's threshold."""

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
        self._threads = CapacityLimiter(MAX_THREADS)

    async def response_body(
        self, file: Path, model: str, media_type: str, context: RequestContext
    ) -> bytes:
        """Return the anomaly of a slice's file as JSON, a picture, or a zip of all output files."""

        async def work() -> bytes:
            detection = await self._detect(file, model, context)
            with time_stage("encode", model), span("encode"):
                return await self._run_in_thread(ENCODERS[media_type], detection, context.id)

        return await self._run_admitted(context, model, KIND, work)

    async def detect(self, file: Path, model: str, context: RequestContext) -> Detection:
        """Return the anomaly of a slice's file; raise as `ParcellationHandler.parcellate` does."""
        work = functools.partial(self._detect, file, model, context)
        return await self._run_admitted(context, model, KIND, work)

    async def score(
        self, images: NDArray[np.float32], model: str, context: RequestContext
    ) -> ScoresAndMaps:
        """Return scores (N,) and error maps (N, 128, 128) of images (N, 1, 128, 128)."""

        async def work() -> ScoresAndMaps:
            with time_stage("infer", model):
                return await self._score(images, model)

        return await self._run_admitted(context, model, KIND, work, len(images))

    async def _detect(self, file: Path, model: str, context: RequestContext) -> Detection:
        prepared = unpack_slice(await self._preprocess(file, KIND, context))
        record_stage_spans(prepared.seconds)
        facts = await self.facts(model)
        start = time.perf_counter()
        scores, maps = await self._score(prepared.fitted.image[None, None], model)
        seconds = {**prepared.seconds, "infer": time.perf_counter() - start}
        with span("restore"):
            restore = functools.partial(_restore, prepared, facts, seconds)
            threshold = self._thresholds[model]
            detection = await self._run_in_thread(restore, float(scores[0]), maps[0], threshold)
        observe_stages(model, detection.seconds)
        return detection

    async def _score(self, images: NDArray[np.float32], model: str) -> ScoresAndMaps:
        """Score images batch after batch, so that other calls get in between."""
        size = self._batches[model]
        results = []
        with span("infer", model=model):
            for first in range(0, len(images), size):
                results.append(await self._score_batch(images[first : first + size], model))
        scores, maps = zip(*results, strict=True)
        return np.concatenate(scores), np.concatenate(maps)

    async def _score_batch(self, images: NDArray[np.float32], model: str) -> ScoresAndMaps:
        start = time.perf_counter()
        rows = await self._call_runner(model, lambda runner: runner.detect(images))
        scores, maps, network_s = unpack_outputs(rows)
        waited_s = max(0.0, time.perf_counter() - start - network_s)
        for _ in images:
            observe_stages(model, {"queue": waited_s})
        return scores, maps

    async def _run_in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        return await to_thread.run_sync(work, *arguments, limiter=self._threads)


def model_thresholds(specs: Sequence[ModelSpec]) -> dict[str, float]:
    """Return the threshold of each anomaly model; raise SpecMismatch if a spec states none."""
    return {spec.name: slice_threshold(spec) for spec in specs if spec.task == AnomalyHandler.task}


def _restore(
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
