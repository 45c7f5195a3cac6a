"""Handle parcellation requests: prepare the scan, segment it, restore the labels, encode them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from anyio import to_thread
from numpy.typing import NDArray

from neurobento.errors import ServiceUnavailable
from neurobento.imaging.atlas import Atlas
from neurobento.parcellation.answer import labels_of_images
from neurobento.parcellation.parcellator import Parcellation, PreparedScan, restore_and_measure
from neurobento.registry import read_atlas
from neurobento.serving.admission import Admission
from neurobento.serving.pool.serialisation import unpack_scan
from neurobento.serving.request import RequestContext
from neurobento.serving.settings import SETTINGS
from neurobento.serving.tasks.handler import (
    PreprocessingService,
    Runner,
    TaskHandler,
    call_service,
)
from neurobento.serving.tasks.parcellation.image_files import has_missing, pack_paths, write_image
from neurobento.serving.tasks.parcellation.options import ParcellationOptions
from neurobento.serving.tasks.parcellation.responses import encode_labels, encode_outputs
from neurobento.serving.tasks.uploaded_file import upload_folder
from neurobento.serving.telemetry.metrics import observe_stages, time_stage
from neurobento.serving.telemetry.tracing import record_stage_spans, span
from neurobento.spec import REPORT_A_VERSION, ModelSpec

__all__ = ["ParcellationHandler", "model_traits"]

START_LIMIT_S = 5.0
"""The start of the service does not wait longer for the preprocessing service."""


class Segmenter(Runner, Protocol):
    """The runner of a parcellation model."""

    async def segment(self, files: NDArray[np.uint8]) -> NDArray[np.generic]:
        """Return the answers (N, ...) to images in files (see `image_files`)."""


def model_traits(
    specs: Sequence[ModelSpec],
) -> tuple[dict[str, int], dict[str, Atlas | None]]:
    """Return the version of preprocessing and the atlas of each model by name."""
    versions = {spec.name: spec.preprocessing_version for spec in specs}
    return versions, {spec.name: read_atlas(spec, SETTINGS.models) for spec in specs}


class ParcellationHandler(TaskHandler[Segmenter]):
    """Handle requests for parcellation.

    `versions` of preprocessing and `atlases` are those of the models, by name.
    """

    task = "parcellation"

    def __init__(
        self,
        preprocessing: PreprocessingService,
        runners: Mapping[str, Segmenter],
        admission: Admission,
        batches: Mapping[str, int],
        versions: Mapping[str, int] | None = None,
        atlases: Mapping[str, Atlas | None] | None = None,
    ) -> None:
        super().__init__(preprocessing, runners, admission, batches)
        self._versions, self._atlases = dict(versions or {}), dict(atlases or {})

    async def labels(
        self, file: Path, options: ParcellationOptions, context: RequestContext
    ) -> bytes:
        """Return the labels alone, as gzip NIfTI."""
        work = functools.partial(self._labels, file, options, context)
        return await self._run_admitted(context, options.model, options.preprocessing, work)

    async def outputs(
        self, file: Path, options: ParcellationOptions, context: RequestContext
    ) -> bytes:
        """Return the output files of the command line, as a zip."""
        work = functools.partial(self._outputs, file, options, context)
        return await self._run_admitted(context, options.model, options.preprocessing, work)

    async def parcellate(
        self, file: Path, options: ParcellationOptions, context: RequestContext
    ) -> Parcellation:
        """Return a file's parcellation; ServiceBusy and ServiceUnavailable say when to retry.

        Others are ModelNotFound, ScanError, PreprocessingError, DeadlineExceeded and ClientGone.
        """
        work = functools.partial(self._parcellate, file, options, context)
        return await self._run_admitted(context, options.model, options.preprocessing, work)

    async def segment(
        self, images: NDArray[np.float32], options: ParcellationOptions, context: RequestContext
    ) -> NDArray[np.uint8]:
        """Return labels (N, 91, 122, 123) of images (N, 1, 91, 122, 123) on the network grid."""

        async def segment() -> NDArray[np.uint8]:
            with upload_folder() as folder:
                files = [folder / f"{i}.image" for i in range(len(images))]
                for file, image in zip(files, images, strict=True):
                    await to_thread.run_sync(write_image, file, image[0])
                with time_stage("infer", options.model), span("infer", model=options.model):
                    answers = await self._infer(options.model, files)
            atlas = self._atlases.get(options.model)
            return await to_thread.run_sync(labels_of_images, answers, atlas)

        return await self._run_admitted(
            context, options.model, options.preprocessing, segment, len(images)
        )

    async def end_abandoned_work(self) -> None:
        """End the preprocessing that an earlier, killed server process had asked for."""
        # a preprocessing service that is missing, late or failing must not keep this one down
        with contextlib.suppress(ServiceUnavailable, TimeoutError, RuntimeError):
            ending = call_service(self._preprocessing.call("end_all"))
            await asyncio.wait_for(ending, START_LIMIT_S)

    async def _labels(
        self, file: Path, options: ParcellationOptions, context: RequestContext
    ) -> bytes:
        parcellation = await self._parcellate(file, options, context)
        with time_stage("encode", options.model), span("encode"):
            return await to_thread.run_sync(encode_labels, parcellation, options.space)

    async def _outputs(
        self, file: Path, options: ParcellationOptions, context: RequestContext
    ) -> bytes:
        parcellation = await self._parcellate(file, options, context)
        facts = await self.facts(options.model)
        with time_stage("encode", options.model), span("encode"):
            return await to_thread.run_sync(
                encode_outputs, file, parcellation, facts, options.space
            )

    async def _parcellate(
        self, file: Path, options: ParcellationOptions, context: RequestContext
    ) -> Parcellation:
        prepared, image = await self._prepare(file, options, context)
        record_stage_spans(prepared.seconds)
        start = time.perf_counter()
        with span("infer", model=options.model):
            answers = await self._infer(options.model, [image])
        seconds = {"infer": time.perf_counter() - start}
        with span("restore and measure"):
            restore = functools.partial(restore_and_measure, atlas=self._atlases.get(options.model))
            parcellation = await to_thread.run_sync(restore, prepared, answers[0], seconds)
        observe_stages(options.model, parcellation.seconds)
        return parcellation

    async def _prepare(
        self, file: Path, options: ParcellationOptions, context: RequestContext
    ) -> tuple[PreparedScan, Path]:
        version = self._versions.get(options.model, REPORT_A_VERSION)
        packed = await self._preprocess(file, options.preprocessing, context, version)
        return unpack_scan(packed), Path(packed["image"])

    async def _infer(self, model: str, files: Sequence[Path]) -> NDArray[np.generic]:
        """Segment batch after batch, so that other calls get in between."""
        size = self._batches[model]
        batches = [files[start : start + size] for start in range(0, len(files), size)]
        answers = [await self._infer_batch(model, batch) for batch in batches]
        return answers[0] if len(answers) == 1 else np.concatenate(answers)

    async def _infer_batch(self, model: str, files: Sequence[Path]) -> NDArray[np.generic]:
        paths = pack_paths(files)
        answers = await self._call_runner(model, lambda runner: runner.segment(paths))
        if has_missing(answers):
            raise ServiceUnavailable(
                expected="the prepared image to exist until the network has seen it",
                found="a file that is gone",
                remedy="Try again in a few seconds.",
                retry_after_s=5.0,
            )
        return answers
