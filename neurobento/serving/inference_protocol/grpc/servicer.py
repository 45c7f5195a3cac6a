"""Answer the protocol's gRPC calls, with the same errors as over HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import grpc
from anyio import to_thread

from neurobento.contract import inference_protocol as pb
from neurobento.errors import NeuroBentoError
from neurobento.serving.admission import Admission
from neurobento.serving.error_responses import GRPC_CODES, error_headers, error_status
from neurobento.serving.inference_protocol.grpc.messages import (
    infer_response,
    parse_request,
    receive_message,
)
from neurobento.serving.inference_protocol.protocol import (
    EXTENSIONS,
    SERVER_NAME,
    OpenInference,
    server_version,
)
from neurobento.serving.request import RequestContext, RequestLimits, choose_request_id
from neurobento.serving.telemetry.logs import log_request
from neurobento.serving.telemetry.tracing import current_trace_id, root_span
from neurobento.serving.token import Token

__all__ = ["Servicer"]

logger = logging.getLogger("neurobento.serving")


class Servicer:
    """The methods of GRPCInferenceService that are served."""

    def __init__(
        self,
        inference: OpenInference,
        admission: Admission,
        limits: RequestLimits,
        token: Token,
        is_ready: Callable[[], Awaitable[bool]],
    ) -> None:
        self._inference, self._admission = inference, admission
        self._limits, self._token, self._parts_ready = limits, token, is_ready

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=await self._is_ready())

    async def ModelReady(self, request: Any, context: Any) -> Any:
        async with self._errors(context, self._request_context(context)):
            self._inference.spec(request.name, request.version)
            return pb.ModelReadyResponse(ready=await self._is_ready())

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        async with self._errors(context, self._request_context(context)):
            return pb.ServerMetadataResponse(
                name=SERVER_NAME, version=server_version(), extensions=EXTENSIONS
            )

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        async with self._errors(context, self._request_context(context)):
            return pb.ModelMetadataResponse(
                **self._inference.metadata(request.name, request.version)
            )

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        async with self._errors(context, self._request_context(context)):
            state = "READY" if await self._is_ready() else "UNAVAILABLE"
            models = [
                pb.RepositoryIndexResponse.ModelIndex(
                    name=spec.name, version=spec.version, state=state
                )
                for spec in self._inference.specs
            ]
            return pb.RepositoryIndexResponse(models=models)

    async def ModelInfer(self, requests: AsyncIterator[Any], context: Any) -> Any:
        """Answer a request for inference; `requests` holds its one message, yet to be read."""
        request_context, resources = self._request_context(context), ExitStack()
        resources.callback(request_context.abandon)
        # runs once the answer is sent or the client has left: until then the call keeps its slot
        context.add_done_callback(lambda _: resources.close())
        with root_span("ModelInfer", _metadata(context)):
            return await self._infer(requests, context, request_context, resources)

    async def _infer(
        self,
        requests: AsyncIterator[Any],
        context: Any,
        request_context: RequestContext,
        resources: ExitStack,
    ) -> Any:
        code = "CANCELLED"
        try:
            async with self._errors(context, request_context):
                resources.enter_context(self._admission.slot())
                limit_s = min(request_context.seconds_left, self._limits.upload_s)
                message = await receive_message(requests, limit_s)
                request = await to_thread.run_sync(parse_request, message)
                tensors = await self._inference.infer(request, request_context)
                version = self._inference.spec(message.model_name).version
                response = infer_response(message, version, tensors)
                # a client that stops reading keeps its slot no longer than any other
                loop, left_s = asyncio.get_running_loop(), request_context.seconds_left
                timer = loop.call_later(left_s, resources.close)
                resources.callback(timer.cancel)
                code = "OK"
                return response
        except asyncio.CancelledError:
            raise
        except grpc.aio.AbortError:
            code = context.code().name
            raise
        finally:
            log_request(request_context, code)

    async def _is_ready(self) -> bool:
        return not self._admission.draining and await self._parts_ready()

    def _request_context(self, context: Any) -> RequestContext:
        remaining_s = context.time_remaining()
        limit_s = self._limits.request_s
        if remaining_s is not None:
            limit_s = min(remaining_s, limit_s)
        return RequestContext(
            choose_request_id(_metadata(context).get("x-request-id", "")), "grpc", limit_s
        )

    @asynccontextmanager
    async def _errors(self, context: Any, request_context: RequestContext) -> AsyncIterator[None]:
        """Check the token, and turn errors into status codes, the same as over HTTP."""
        trace = current_trace_id()
        names = [("x-request-id", request_context.id)]
        if trace:
            names.append(("x-trace-id", trace))
        await context.send_initial_metadata(tuple(names))
        try:
            self._token.require(str(_metadata(context).get("authorization", "")).encode())
            yield
        except NeuroBentoError as error:
            code, kind = GRPC_CODES.get(error_status(error), "UNKNOWN"), type(error).__name__
            extra = {"request_id": request_context.id, "status": code, "error": kind}
            logger.info("request %s: %s %s", request_context.id, code, kind, extra=extra)
            trailing = (("error-type", kind), *error_headers(error).items())
            await context.abort(grpc.StatusCode[code], error.public_message, trailing)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        # the message may hold a path; the log has the error's class and place
        except Exception:
            extra = {"request_id": request_context.id}
            logger.exception("request %s failed", request_context.id, extra=extra)
            await context.abort(grpc.StatusCode.INTERNAL, "something went wrong here")


def _metadata(context: Any) -> dict[str, Any]:
    return dict(context.invocation_metadata() or ())
