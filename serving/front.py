"""What the front service does with a request: prepare, segment, restore, hand over."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import logging
import tempfile
import time
import zipfile
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from anyio import to_thread
from bentoml.exceptions import BentoMLException
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from neurobento.errors import ConfigError, ModelNotFound, NeuroBentoError, ServiceUnavailable
from neurobento.geometry import NETWORK_SHAPE
from neurobento.labels import aal116
from neurobento.parcellation import Parcellation, Prepared, restore_and_measure
from neurobento.preprocessing.levels import LEVELS, Level
from neurobento.report import dseg_bytes, output_files
from neurobento.scan import label_bytes, read_scan, space_of
from serving.answers import error_body, error_headers, error_status
from serving.calls import Admission, Call, lane_of
from serving.grid_images import any_gone, names_of, write_image
from serving.metrics import observe_stages, stage
from serving.room import needs_room
from serving.tracing import span, stage_spans
from serving.wire import unpack

__all__ = ["GZIP", "UPLOAD_PREFIX", "ZIP", "Front", "Options", "answered", "download", "dseg"]

Result = TypeVar("Result")

GZIP, ZIP = "application/gzip", "application/zip"
START_LIMIT_S = 5.0
UPLOAD_PREFIX = "neurobento-upload-"
FILE_STEM = "scan"
"""What files in an answer are called: the client's own name stays with the client."""

logger = logging.getLogger("neurobento.serving")


class PreprocessingService(Protocol):
    """The preprocessing service as the front calls it."""

    async def prepare(self, path: str, level: str, ticket: str) -> dict[str, Any]:
        """A prepared scan or an error, packed; see `serving.wire`."""

    async def end(self, ticket: str) -> None:
        """End the work of a ticket."""

    async def call(self, method: str) -> Any:
        """Ask for a method by name, as has to be done while the front starts."""


class Runner(Protocol):
    """A network's runner as the front calls it."""

    async def segment(self, files: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Labels (N, 91, 122, 123) of the images in files; see `serving.grid_images`."""

    async def describe(self) -> dict[str, Any]:
        """Model and backend, for run.json."""


class Options:
    """What a client may choose, checked.

    Parameters
    ----------
    model, level, space
        Name of a model; preprocessing level; "native" or "network".

    Raises
    ------
    ConfigError
        A level or space that there is not.
    """

    def __init__(self, model: str, level: str, space: str) -> None:
        self.model = model
        self.level: Level = _one_of("preprocessing", level, LEVELS)
        self.space: Literal["native", "network"] = _one_of("space", space, ("native", "network"))

    @classmethod
    def of_report(cls, query: Mapping[str, str], default_model: str) -> Options:
        """The options of report A's API: `?preprocessing=true|false&model=NAME`.

        A level's name is taken too. Without preprocessing the image has to be
        on the network grid.
        """
        asked = query.get("preprocessing", "false").lower()
        level = {"true": "full", "false": "none"}.get(asked, asked)
        model = query.get("model") or default_model
        return cls(model, level, query.get("space", "native"))


def _one_of(what: str, value: str, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise ConfigError(
            subject=what,
            expected=f"{what} to be one of {', '.join(allowed)}",
            found=f"{len(value)} other characters" if len(value) > 20 else repr(value),
            remedy="Choose one of them.",
        )
    return value


class Front:
    """Answers requests with the services behind it, over HTTP and gRPC alike.

    Parameters
    ----------
    preprocessing
        Prepares scans.
    runners
        Model name -> its runner.
    admission
        Says whose turn it is.
    batches
        Model name -> images in a batch of its runner at most. A runner holds calls for two, one
        in the network and one that waits for it; others wait here, where they can leave.
    """

    def __init__(
        self,
        preprocessing: PreprocessingService,
        runners: Mapping[str, Runner],
        admission: Admission,
        batches: Mapping[str, int],
    ) -> None:
        self._preprocessing = preprocessing
        self._runners = dict(runners)
        self._batches = dict(batches)
        self._rooms = {name: asyncio.Semaphore(2 * images) for name, images in batches.items()}
        self._admission = admission
        self._facts: dict[str, dict[str, Any]] = {}

    async def labels(self, file: Path, options: Options, call: Call) -> bytes:
        """The parcellation alone, as gzip NIfTI."""
        return await self._answered(call, options, lambda: self._labels(file, options, call))

    async def outputs(self, file: Path, options: Options, call: Call) -> bytes:
        """All of the command line's output files, as a zip."""
        return await self._answered(call, options, lambda: self._outputs(file, options, call))

    async def parcellate(self, file: Path, options: Options, call: Call) -> Parcellation:
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
        return await self._answered(call, options, lambda: self._parcellate(file, options, call))

    async def segment(
        self, images: NDArray[np.float32], options: Options, call: Call
    ) -> NDArray[np.uint8]:
        """Labels (N, 91, 122, 123) of images (N, 1, 91, 122, 123) on the network grid.

        Raises as `parcellate` does.
        """

        async def segment() -> NDArray[np.uint8]:
            with contextlib.ExitStack() as stack:
                with needs_room():
                    made = tempfile.TemporaryDirectory(prefix=UPLOAD_PREFIX)
                    folder = Path(stack.enter_context(made))
                    files = [folder / f"{i}.image" for i in range(len(images))]
                    for file, image in zip(files, images, strict=True):
                        await to_thread.run_sync(write_image, file, image[0])
                with stage("infer", options.model), span("infer", model=options.model):
                    return await self._infer(options.model, files)

        return await self._answered(call, options, segment, len(images))

    async def facts(self, model: str) -> dict[str, Any]:
        """Model and backend, for run.json; a runner is asked once.

        Raises
        ------
        ModelNotFound, ServiceUnavailable
        """
        if model not in self._facts:
            self._facts[model] = await _asked(self._runner(model).describe())
        return self._facts[model]

    async def _answered(
        self,
        call: Call,
        options: Options,
        work: Callable[[], Coroutine[Any, Any, Result]],
        *size: Hashable,
    ) -> Result:
        """Work in its turn, within its call's limits; its size foretells how long it takes."""
        self._runner(options.model)
        # the metrics' labels: only what there is
        call.model, call.level = options.model, options.level
        kind, lane = (options.model, options.level, *size), lane_of(options.level)
        with self._admission.turn(call, kind, lane), needs_room():
            return await call.run(work())

    async def _labels(self, file: Path, options: Options, call: Call) -> bytes:
        parcellation = await self._parcellate(file, options, call)
        with stage("encode", options.model), span("encode"):
            return await to_thread.run_sync(dseg, parcellation, options.space)

    async def _outputs(self, file: Path, options: Options, call: Call) -> bytes:
        parcellation = await self._parcellate(file, options, call)
        facts = await self.facts(options.model)
        with stage("encode", options.model), span("encode"):
            return await to_thread.run_sync(_archive, file, parcellation, facts, options.space)

    async def _parcellate(self, file: Path, options: Options, call: Call) -> Parcellation:
        prepared, image = await self._prepare(file, options.level, call)
        stage_spans(prepared.seconds)
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

        The runner finishes what it was asked for, whoever has left by then: a call keeps its
        room there until it is done, so that calls nobody waits for cannot pile up.

        Raises
        ------
        ServiceUnavailable
            An image was gone before the network saw it, though its caller still waits.
        """
        names = names_of(files)
        runner, room = self._runner(model), self._rooms[model]
        await room.acquire()
        work = asyncio.ensure_future(_asked(runner.segment(names)))
        work.add_done_callback(functools.partial(_leave, room))
        labels = await asyncio.shield(work)
        if any_gone(labels):
            raise ServiceUnavailable(
                expected="the prepared image to be there until the network has seen it",
                found="that it was gone",
                remedy="Try again in a few seconds.",
                retry_after_s=5.0,
            )
        return labels

    async def end_left_work(self) -> None:
        """End what another front had asked for before this one was there."""
        # it may be missing, late or failing: none keeps this one from starting
        with contextlib.suppress(ServiceUnavailable, TimeoutError, RuntimeError):
            await asyncio.wait_for(_asked(self._preprocessing.call("end_all")), START_LIMIT_S)

    def _runner(self, model: str) -> Runner:
        if model not in self._runners:
            raise ModelNotFound(
                subject="model",
                expected=f"model to be one of {', '.join(sorted(self._runners))}",
                found="another name",
                remedy="`GET /v1/models` lists them.",
            )
        return self._runners[model]

    async def _prepare(self, file: Path, level: Level, call: Call) -> tuple[Prepared, Path]:
        """A scan on the network grid, and the file that its image is in."""
        asked = self._preprocessing.prepare(str(file), level, call.ticket)
        try:
            found = await _asked(asked)
            return unpack(found), Path(found["image"])
        except asyncio.CancelledError:
            # leaving does not stop what the other process does; what is not there has stopped
            with contextlib.suppress(ServiceUnavailable):
                await _asked(self._preprocessing.end(call.ticket))
            raise


def _leave(room: asyncio.Semaphore, work: asyncio.Future[Any]) -> None:
    room.release()
    if not work.cancelled():
        # an error that nobody looks at is written out by asyncio, words and all
        work.exception()


async def _asked(answer: Coroutine[Any, Any, Result]) -> Result:
    """What another service answers.

    Raises
    ------
    ServiceUnavailable
        It is gone or restarting, or has no room. Its own words are for nobody.
    RuntimeError
        It failed, and would again.
    """
    from aiohttp import ClientError

    try:
        return await answer
    except (BentoMLException, ClientError, OSError) as error:
        # the error's own, as the service answered it; its class's says nothing
        if vars(error).get("error_code") == HTTPStatus.INTERNAL_SERVER_ERROR:
            raise RuntimeError("a service failed") from None
        logger.warning("a service did not answer: %s", type(error).__name__)
        raise ServiceUnavailable(
            expected="every part of the service to be there",
            found="that one did not answer",
            remedy="Try again in a few seconds.",
            retry_after_s=5.0,
        ) from None


def _archive(file: Path, parcellation: Parcellation, facts: dict[str, Any], space: str) -> bytes:
    files = output_files(FILE_STEM, read_scan(file), parcellation, facts)
    if space == "network":
        files[f"{FILE_STEM}_dseg.nii.gz"] = dseg(parcellation, "network")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return archive.getvalue()


def dseg(parcellation: Parcellation, space: str) -> bytes:
    """The parcellation as a gzip NIfTI file in the space asked for, "native" or "network"."""
    if space == "native":
        return dseg_bytes(parcellation)
    network = space_of(NETWORK_SHAPE, parcellation.prepared.grid.network_voxel_to_ras)
    table = aal116().lookup_tsv().encode()
    return label_bytes(parcellation.network_labels, network, extension=table)


def download(content: bytes, name: str, media_type: str) -> Response:
    """An answer that is a file."""
    headers = {"content-disposition": f'attachment; filename="{FILE_STEM}_{name}"'}
    return Response(content, media_type=media_type, headers=headers)


def answered(method: Callable[..., Any]) -> Callable[..., Any]:
    """An API method whose errors become answers; `ctx` carries the request and the status."""

    @functools.wraps(method)
    async def answer(self: Any, *args: Any, ctx: Any, **options: Any) -> Any:
        try:
            return await method(self, *args, ctx=ctx, **options)
        except NeuroBentoError as error:
            return _error_response(error, ctx)

    return answer


def _error_response(error: NeuroBentoError, ctx: Any) -> Response:
    status = error_status(error)
    body = error_body(type(error).__name__, error.public_message, ctx.request.state.request_id)
    # BentoML sets the context's status on every response of a method that has a context
    ctx.response.status_code = status
    ctx.response.metadata.update(error_headers(error))
    return JSONResponse(body, status_code=status)
