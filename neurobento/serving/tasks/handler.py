"""Base of the request handlers: admission, calls to the other services, and cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Coroutine, Hashable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from bentoml.exceptions import BentoMLException

from neurobento.errors import ModelNotFound, ServiceUnavailable
from neurobento.serving.admission import Admission, Kind, queue_for
from neurobento.serving.process.exhaustion import map_exhaustion
from neurobento.serving.request import RequestContext
from neurobento.spec import REPORT_A_VERSION

__all__ = ["PreprocessingService", "Runner", "TaskHandler", "call_service"]

Result = TypeVar("Result")

logger = logging.getLogger("neurobento.serving")


class PreprocessingService(Protocol):
    """The preprocessing service as handlers call it."""

    async def prepare(
        self, path: str, kind: str, ticket: str, version: int = REPORT_A_VERSION
    ) -> dict[str, Any]: ...

    async def end(self, ticket: str) -> None: ...

    async def call(self, method: str) -> Any:
        """Call a method by its name; during start-up BentoML offers no other way."""


class Runner(Protocol):
    """The runner of one model as the handlers of all tasks call it."""

    async def describe(self) -> dict[str, Any]: ...


OwnRunner = TypeVar("OwnRunner", bound=Runner)


class TaskHandler(Generic[OwnRunner]):
    """Handle the requests for one task, whether they came by HTTP, by gRPC or as jobs.

    `batches` holds the largest batch of each model's runner. A runner gets two at a time, one of
    which waits for it; other calls wait here, where they can be cancelled.
    """

    task: str

    def __init__(
        self,
        preprocessing: PreprocessingService,
        runners: Mapping[str, OwnRunner],
        admission: Admission,
        batches: Mapping[str, int],
    ) -> None:
        self._preprocessing = preprocessing
        self._runners = dict(runners)
        self._batches = dict(batches)
        self._slots = {name: asyncio.Semaphore(2 * images) for name, images in batches.items()}
        self._admission = admission
        self._facts: dict[str, dict[str, Any]] = {}

    def require_model(self, model: str) -> None:
        """Raise ModelNotFound unless this task has the model."""
        self._runner(model)

    async def facts(self, model: str) -> dict[str, Any]:
        """Return the model and the backend for run.json; each runner is called once."""
        if model not in self._facts:
            self._facts[model] = await call_service(self._runner(model).describe())
        return self._facts[model]

    async def _run_admitted(
        self,
        context: RequestContext,
        model: str,
        kind: Kind,
        work: Callable[[], Coroutine[Any, Any, Result]],
        *size: Hashable,
    ) -> Result:
        """Do some work in its turn and within its deadline; the size helps to predict how long."""
        self._runner(model)
        # only once the model is known to exist: metrics have no labels that clients made up
        context.model, context.preprocessing = model, kind
        with (
            self._admission.join_queue(context, (model, kind, *size), queue_for(kind)),
            map_exhaustion(),
        ):
            return await context.run(work())

    async def _preprocess(
        self, file: Path, kind: Kind, context: RequestContext, version: int = REPORT_A_VERSION
    ) -> dict[str, Any]:
        try:
            return await call_service(
                self._preprocessing.prepare(str(file), kind, context.ticket, version)
            )
        except asyncio.CancelledError:
            # cancelling stops nothing in the other process; a service that is gone has stopped
            with contextlib.suppress(ServiceUnavailable):
                await call_service(self._preprocessing.end(context.ticket))
            raise

    async def _call_runner(
        self, model: str, method: Callable[[OwnRunner], Coroutine[Any, Any, Result]]
    ) -> Result:
        """Return a runner's result; the slot is kept until it ends, so that no calls pile up."""
        runner, slot = self._runner(model), self._slots[model]
        await slot.acquire()
        work = asyncio.ensure_future(call_service(method(runner)))
        work.add_done_callback(functools.partial(_release, slot))
        return await asyncio.shield(work)

    def _runner(self, model: str) -> OwnRunner:
        if model not in self._runners:
            raise ModelNotFound(
                subject="model",
                expected=f"a model for {self.task}, "
                f"one of {', '.join(sorted(self._runners)) or 'none, since none is served'}",
                found="another name",
                remedy="`GET /v1/models` lists all, each with its task.",
            )
        return self._runners[model]


def _release(slot: asyncio.Semaphore, work: asyncio.Future[Any]) -> None:
    slot.release()
    if not work.cancelled():
        # asyncio logs an exception that nobody has retrieved, with its message
        work.exception()


async def call_service(answer: Coroutine[Any, Any, Result]) -> Result:
    """Return what another service answers; raise ServiceUnavailable if it is gone or restarting."""
    from aiohttp import ClientError

    try:
        return await answer
    except (BentoMLException, ClientError, OSError) as error:
        # the code that the service answered with; the class's own default says nothing
        if vars(error).get("error_code") == HTTPStatus.INTERNAL_SERVER_ERROR:
            raise RuntimeError("a service failed") from None
        logger.warning("a service did not answer: %s", type(error).__name__)
        raise ServiceUnavailable(
            expected="every part of the service to be there",
            found="one that did not answer",
            remedy="Try again in a few seconds.",
            retry_after_s=5.0,
        ) from None
