"""What the fronts of all tasks share: turns, runners and their rooms, work that is ended."""

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

__all__ = ["PreprocessingService", "Runner", "TaskHandler", "call_service"]

Result = TypeVar("Result")

logger = logging.getLogger("neurobento.serving")


class PreprocessingService(Protocol):
    """The preprocessing service as a front calls it."""

    async def prepare(self, path: str, kind: str, ticket: str) -> dict[str, Any]:
        """What was made of a file, or an error, packed; see `neurobento.serving.pool.serialisation`."""

    async def end(self, ticket: str) -> None:
        """End the work of a ticket."""

    async def call(self, method: str) -> Any:
        """Ask for a method by name, as has to be done while the front starts."""


class Runner(Protocol):
    """A network's runner as the fronts of all tasks call it."""

    async def describe(self) -> dict[str, Any]:
        """Model and backend, for run.json."""


OwnRunner = TypeVar("OwnRunner", bound=Runner)


class TaskHandler(Generic[OwnRunner]):
    """Answers requests for one task with the services behind it, over HTTP and gRPC alike.

    Parameters
    ----------
    preprocessing
        Reads files, and prepares what is in them.
    runners
        Name of a model for the task -> its runner.
    admission
        Says whose turn it is.
    batches
        Model name -> images in a batch of its runner at most. A runner holds calls for two, one
        in the network and one that waits for it; others wait here, where they can leave.
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
        self._rooms = {name: asyncio.Semaphore(2 * images) for name, images in batches.items()}
        self._admission = admission
        self._facts: dict[str, dict[str, Any]] = {}

    def require(self, model: str) -> None:
        """That there is such a model for the task.

        Raises
        ------
        ModelNotFound
        """
        self._runner(model)

    async def facts(self, model: str) -> dict[str, Any]:
        """Model and backend, for run.json; a runner is call_service once.

        Raises
        ------
        ModelNotFound, ServiceUnavailable
        """
        if model not in self._facts:
            self._facts[model] = await call_service(self._runner(model).describe())
        return self._facts[model]

    async def _answered(
        self,
        call: RequestContext,
        model: str,
        kind: Kind,
        work: Callable[[], Coroutine[Any, Any, Result]],
        *size: Hashable,
    ) -> Result:
        """Work in its turn, within its call's limits; its size foretells how long it takes."""
        self._runner(model)
        # the metrics' labels: only what there is
        call.model, call.preprocessing = model, kind
        with (
            self._admission.join_queue(call, (model, kind, *size), queue_for(kind)),
            map_exhaustion(),
        ):
            return await call.run(work())

    async def _prepared(self, file: Path, kind: Kind, call: RequestContext) -> dict[str, Any]:
        """What preprocessing makes of a file, or an error, packed; see `neurobento.serving.pool.serialisation`."""
        try:
            return await call_service(self._preprocessing.prepare(str(file), kind, call.ticket))
        except asyncio.CancelledError:
            # leaving does not stop what the other process does; what is not there has stopped
            with contextlib.suppress(ServiceUnavailable):
                await call_service(self._preprocessing.end(call.ticket))
            raise

    async def _in_room(
        self, model: str, ask: Callable[[OwnRunner], Coroutine[Any, Any, Result]]
    ) -> Result:
        """What a model's runner answers, once there is room for one more call in it.

        The runner finishes what it was call_service for, whoever has left by then: a call keeps its
        room there until it is done, so that calls nobody waits for cannot pile up.
        """
        runner, room = self._runner(model), self._rooms[model]
        await room.acquire()
        work = asyncio.ensure_future(call_service(ask(runner)))
        work.add_done_callback(functools.partial(_leave, room))
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


def _leave(room: asyncio.Semaphore, work: asyncio.Future[Any]) -> None:
    room.release()
    if not work.cancelled():
        # an error that nobody looks at is written out by asyncio, words and all
        work.exception()


async def call_service(answer: Coroutine[Any, Any, Result]) -> Result:
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
