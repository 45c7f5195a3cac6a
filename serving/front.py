"""What the front service does with a request: prepare, segment, restore, hand over."""

from __future__ import annotations

import functools
import io
import time
import zipfile
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from bentoml.exceptions import BentoMLException
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from neurobento.errors import ConfigError, ModelNotFound, NeuroBentoError
from neurobento.geometry import NETWORK_SHAPE
from neurobento.labels import aal116
from neurobento.parcellation import Parcellation, Prepared, restore_and_measure
from neurobento.preprocessing.levels import LEVELS, Level
from neurobento.report import dseg_bytes, output_files
from neurobento.scan import label_bytes, read_scan, space_of
from serving.answers import error_body, error_status
from serving.wire import unpack

__all__ = ["Front", "Options", "answered"]

GZIP, ZIP = "application/gzip", "application/zip"
FILE_STEM = "scan"
"""What files in an answer are called: the client's own name stays with the client."""


class PreprocessingService(Protocol):
    """The preprocessing service as the front calls it."""

    def prepare(self, path: str, level: str) -> dict[str, Any]:
        """A prepared scan or an error, packed; see `serving.wire`."""


class Runner(Protocol):
    """A network's runner as the front calls it."""

    def segment(self, images: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Labels (N, 91, 122, 123) of images (N, 1, 91, 122, 123)."""

    def describe(self) -> dict[str, Any]:
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
    """Answers requests with the services behind it.

    Parameters
    ----------
    preprocessing
        Prepares scans.
    runners
        Model name -> its runner.
    """

    def __init__(self, preprocessing: PreprocessingService, runners: Mapping[str, Runner]) -> None:
        self._preprocessing = preprocessing
        self._runners = dict(runners)

    def labels(self, file: Path, options: Options) -> Response:
        """The parcellation alone, as gzip NIfTI."""
        parcellation = self._parcellate(file, options)
        return _download(_dseg(parcellation, options.space), f"{FILE_STEM}_dseg.nii.gz", GZIP)

    def outputs(self, file: Path, options: Options) -> Response:
        """All of the command line's output files, as a zip."""
        parcellation = self._parcellate(file, options)
        facts = self._runner(options.model).describe()
        files = output_files(FILE_STEM, read_scan(file), parcellation, facts)
        if options.space == "network":
            files[f"{FILE_STEM}_dseg.nii.gz"] = _dseg(parcellation, "network")
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
            for name, content in files.items():
                target.writestr(name, content)
        return _download(archive.getvalue(), f"{FILE_STEM}_parcellation.zip", ZIP)

    def _parcellate(self, file: Path, options: Options) -> Parcellation:
        runner = self._runner(options.model)
        prepared = self._prepare(file, options.level)
        start = time.perf_counter()
        network_labels = runner.segment(prepared.image[None, None])[0]
        seconds = {"infer": time.perf_counter() - start}
        return restore_and_measure(prepared, network_labels, seconds)

    def _runner(self, model: str) -> Runner:
        if model not in self._runners:
            raise ModelNotFound(
                subject="model",
                expected=f"model to be one of {', '.join(sorted(self._runners))}",
                found="another name",
                remedy="`GET /v1/models` lists them.",
            )
        return self._runners[model]

    def _prepare(self, file: Path, level: Level) -> Prepared:
        return unpack(self._preprocessing.prepare(str(file), level))


def _dseg(parcellation: Parcellation, space: str) -> bytes:
    if space == "native":
        return dseg_bytes(parcellation)
    network = space_of(NETWORK_SHAPE, parcellation.prepared.grid.network_voxel_to_ras)
    table = aal116().lookup_tsv().encode()
    return label_bytes(parcellation.network_labels, network, extension=table)


def _download(content: bytes, name: str, media_type: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=media_type, headers=headers)


def answered(method: Callable[..., Any]) -> Callable[..., Any]:
    """An API method whose errors become answers; `ctx` carries the request and the status."""

    @functools.wraps(method)
    def answer(self: Any, *args: Any, ctx: Any, **options: Any) -> Any:
        try:
            return method(self, *args, ctx=ctx, **options)
        except (NeuroBentoError, BentoMLException, OSError) as error:
            return _error_response(error, ctx)

    return answer


def _error_response(error: Exception, ctx: Any) -> Response:
    request_id = ctx.request.state.request_id
    status = error_status(error)
    if isinstance(error, NeuroBentoError):
        kind, message = type(error).__name__, error.public_message
    else:
        # a dependency that is gone or restarting; its own words are for the log
        status, kind = HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable"
        message = "a part of the service is not there at the moment; try again in a few seconds"
        ctx.response.metadata["retry-after"] = "5"
    # BentoML sets the context's status on every response of a method that has a context
    ctx.response.status_code = int(status)
    return JSONResponse(error_body(kind, message, request_id), status_code=int(status))
