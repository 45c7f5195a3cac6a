"""What the front service does with a scan: prepare, segment, restore, hand over."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from anyio import to_thread
from numpy.typing import NDArray

from neurobento.errors import ConfigError, ServiceUnavailable
from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.imaging.scan import label_bytes, read_scan, space_of
from neurobento.labels import aal116
from neurobento.parcellation.outputs import dseg_bytes, output_files
from neurobento.parcellation.parcellator import Parcellation, PreparedScan, restore_and_measure
from neurobento.preprocessing.mode import PREPROCESSINGS, Preprocessing
from neurobento.serving.http.downloads import FILE_STEM, zip_files
from neurobento.serving.pool.serialisation import unpack_scan
from neurobento.serving.request import RequestContext
from neurobento.serving.tasks.handler import Runner, TaskHandler, call_service
from neurobento.serving.tasks.parcellation.image_files import has_missing, pack_paths, write_image
from neurobento.serving.tasks.uploaded_file import upload_folder
from neurobento.serving.telemetry.metrics import observe_stages, time_stage
from neurobento.serving.telemetry.tracing import record_stage_spans, span

__all__ = ["Options", "ParcellationHandler", "dseg"]

START_LIMIT_S = 5.0


class Segmenter(Runner, Protocol):
    """A network's runner as this front calls it."""

    async def segment(self, files: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Labels (N, 91, 122, 123) of the images in files; see `neurobento.serving.tasks.parcellation.image_files`."""


class Options:
    """What a client may choose, checked.

    Parameters
    ----------
    model, preprocessing, space
        Name of a model; preprocessing level; "native" or "network".

    Raises
    ------
    ConfigError
        A level or space that there is not.
    """

    def __init__(self, model: str, preprocessing: str, space: str) -> None:
        self.model = model
        self.preprocessing: Preprocessing = _one_of("preprocessing", preprocessing, PREPROCESSINGS)
        self.space: Literal["native", "network"] = _one_of("space", space, ("native", "network"))

    @classmethod
    def of_report(cls, query: Mapping[str, str], default_model: str) -> Options:
        """The options of report A's API: `?preprocessing=true|false&model=NAME`.

        A level's name is taken too. Without preprocessing the image has to be
        on the network grid.
        """
        call_service = query.get("preprocessing", "false").lower()
        preprocessing = {"true": "full", "false": "none"}.get(call_service, call_service)
        model = query.get("model") or default_model
        return cls(model, preprocessing, query.get("space", "native"))


def _one_of(what: str, value: str, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise ConfigError(
            subject=what,
            expected=f"{what} to be one of {', '.join(allowed)}",
            found=f"{len(value)} other characters" if len(value) > 20 else repr(value),
            remedy="Choose one of them.",
        )
    return value


class ParcellationHandler(TaskHandler[Segmenter]):
    """Answers requests for parcellation; see `TaskHandler`."""

    task = "parcellation"

    async def labels(self, file: Path, options: Options, call: RequestContext) -> bytes:
        """The parcellation alone, as gzip NIfTI."""
        work = functools.partial(self._labels, file, options, call)
        return await self._answered(call, options.model, options.preprocessing, work)

    async def outputs(self, file: Path, options: Options, call: RequestContext) -> bytes:
        """All of the command line's output files, as a zip."""
        work = functools.partial(self._outputs, file, options, call)
        return await self._answered(call, options.model, options.preprocessing, work)

    async def parcellate(self, file: Path, options: Options, call: RequestContext) -> Parcellation:
        """The parcellation of a scan's file.

        Raises
        ------
        ModelNotFound
            There is no such model.
        ScanError, PreprocessingError
            The scan cannot be used.
        ServiceBusy, ServiceUnavailable
            Not now; both say when.
        DeadlineExceeded, ClientGone
            The work was ended, in all processes.
        """
        work = functools.partial(self._parcellate, file, options, call)
        return await self._answered(call, options.model, options.preprocessing, work)

    async def segment(
        self, images: NDArray[np.float32], options: Options, call: RequestContext
    ) -> NDArray[np.uint8]:
        """Labels (N, 91, 122, 123) of images (N, 1, 91, 122, 123) on the network grid.

        Raises as `parcellate` does.
        """

        async def segment() -> NDArray[np.uint8]:
            with upload_folder() as folder:
                files = [folder / f"{i}.image" for i in range(len(images))]
                for file, image in zip(files, images, strict=True):
                    await to_thread.run_sync(write_image, file, image[0])
                with time_stage("infer", options.model), span("infer", model=options.model):
                    return await self._infer(options.model, files)

        return await self._answered(
            call, options.model, options.preprocessing, segment, len(images)
        )

    async def end_left_work(self) -> None:
        """End what another front had call_service for before this one was there."""
        # it may be missing, late or failing: none keeps this one from starting
        with contextlib.suppress(ServiceUnavailable, TimeoutError, RuntimeError):
            await asyncio.wait_for(call_service(self._preprocessing.call("end_all")), START_LIMIT_S)

    async def _labels(self, file: Path, options: Options, call: RequestContext) -> bytes:
        parcellation = await self._parcellate(file, options, call)
        with time_stage("encode", options.model), span("encode"):
            return await to_thread.run_sync(dseg, parcellation, options.space)

    async def _outputs(self, file: Path, options: Options, call: RequestContext) -> bytes:
        parcellation = await self._parcellate(file, options, call)
        facts = await self.facts(options.model)
        with time_stage("encode", options.model), span("encode"):
            return await to_thread.run_sync(_archive, file, parcellation, facts, options.space)

    async def _parcellate(self, file: Path, options: Options, call: RequestContext) -> Parcellation:
        prepared, image = await self._prepare(file, options.preprocessing, call)
        record_stage_spans(prepared.seconds)
        start = time.perf_counter()
        with span("infer", model=options.model):
            found = await self._infer(options.model, [image])
        seconds = {"infer": time.perf_counter() - start}
        with span("restore and measure"):
            parcellation = await to_thread.run_sync(
                restore_and_measure, prepared, found[0], seconds
            )
        observe_stages(options.model, parcellation.seconds)
        return parcellation

    async def _infer(self, model: str, files: Sequence[Path]) -> NDArray[np.uint8]:
        """Labels of the images in files, from a runner, in pieces that fit into a batch.

        One after the other, so that a call with many lets others in between.
        """
        most = self._batches[model]
        pieces = [files[start : start + most] for start in range(0, len(files), most)]
        found = [await self._infer_piece(model, piece) for piece in pieces]
        return found[0] if len(found) == 1 else np.concatenate(found)

    async def _infer_piece(self, model: str, files: Sequence[Path]) -> NDArray[np.uint8]:
        """Labels of as many images as a batch holds.

        Raises
        ------
        ServiceUnavailable
            An image was gone before the network saw it, though its caller still waits.
        """
        names = pack_paths(files)
        labels = await self._in_room(model, lambda runner: runner.segment(names))
        if has_missing(labels):
            raise ServiceUnavailable(
                expected="the prepared image to be there until the network has seen it",
                found="that it was gone",
                remedy="Try again in a few seconds.",
                retry_after_s=5.0,
            )
        return labels

    async def _prepare(
        self, file: Path, preprocessing: Preprocessing, call: RequestContext
    ) -> tuple[PreparedScan, Path]:
        """A scan on the network grid, and the file that its image is in."""
        found = await self._prepared(file, preprocessing, call)
        return unpack_scan(found), Path(found["image"])


def _archive(file: Path, parcellation: Parcellation, facts: dict[str, Any], space: str) -> bytes:
    files = output_files(FILE_STEM, read_scan(file), parcellation, facts)
    if space == "network":
        files[f"{FILE_STEM}_dseg.nii.gz"] = dseg(parcellation, "network")
    return zip_files(files)


def dseg(parcellation: Parcellation, space: str) -> bytes:
    """The parcellation as a gzip NIfTI file in the space call_service for, "native" or "network"."""
    if space == "native":
        return dseg_bytes(parcellation)
    network = space_of(NETWORK_SHAPE, parcellation.prepared.grid.network_voxel_to_ras)
    table = aal116().lookup_tsv().encode()
    return label_bytes(parcellation.network_labels, network, extension=table)
