"""gRPC: the Open Inference Protocol v2 on a port of its own, with health and reflection.

It bypasses BentoML, which serves no gRPC with services of the new kind; places,
deadlines, token, errors and metrics are the same objects that HTTP goes through.
As there, a scan is read only once its sender has shown the token and has a place:
ModelInfer is served as a stream of one message, which looks no different from outside.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import grpc
from anyio import to_thread
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from neurobento.contract import inference_protocol as pb
from neurobento.errors import ConfigError, DeadlineExceeded, NeuroBentoError
from neurobento.serving.admission import Admission
from neurobento.serving.error_answers import GRPC_CODES, error_headers, error_status
from neurobento.serving.inference_protocol.protocol import (
    EXTENSIONS,
    SERVER_NAME,
    InferRequest,
    OpenInference,
    server_version,
)
from neurobento.serving.inference_protocol.tensors import Tensor
from neurobento.serving.request import RequestContext, RequestLimits, choose_request_id
from neurobento.serving.telemetry.logs import log_request
from neurobento.serving.telemetry.tracing import current_trace_id, root_span
from neurobento.serving.token import Token

__all__ = ["GrpcServer"]

CONTENTS = {
    "BYTES": "bytes_contents",
    "UINT8": "uint_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}

MOST_CALLS = 1000
"""At once, of all kinds; none of them holds more than its headers before it has a place."""

logger = logging.getLogger("neurobento.serving")

Ready = Callable[[], Awaitable[bool]]


class GrpcServer:
    """The server, in the front's event loop.

    Parameters
    ----------
    inference
        Answers.
    admission, limits, token
        As the gate of HTTP has them.
    ready
        Whether every part of the service is there.
    """

    def __init__(
        self,
        inference: OpenInference,
        admission: Admission,
        limits: RequestLimits,
        token: Token,
        ready: Ready,
    ) -> None:
        self._health = health.aio.HealthServicer()
        size = limits.body_bytes
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", size),
                # a second server on the port would take half of the calls
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=MOST_CALLS,
        )
        servicer = _Servicer(inference, admission, limits, token, ready)
        self._server.add_generic_rpc_handlers((_handlers(servicer),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (pb.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, _reflection_pool())
        self._admission, self._ready = admission, ready
        self._watch: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Begin to answer; the port, which is another one if it was 0.

        Raises
        ------
        ConfigError
            The port is taken.
        """
        try:
            bound = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise ConfigError(
                subject="NEUROBENTO_GRPC_PORT",
                expected=f"port {port} on {host} to be free for gRPC",
                found="that it is taken",
                remedy="Name another in NEUROBENTO_GRPC_PORT, or 0 for no gRPC.",
            )
        # before it answers: the library's own first word is SERVING
        await self._say_health(False)
        await self._server.start()
        self._watch = asyncio.ensure_future(self._tell_health())
        return int(bound)

    async def _tell_health(self) -> None:
        """Keep grpc.health.v1 at what is true."""
        while True:
            await self._say_health(not self._admission.draining and await self._ready())
            await asyncio.sleep(1.0)

    async def _say_health(self, well: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in ("", pb.SERVICE):
            await self._health.set(name, status.SERVING if well else status.NOT_SERVING)

    async def stop(self) -> None:
        """End; calls under way are given a moment."""
        if self._watch is not None:
            self._watch.cancel()
        await self._server.stop(grace=5.0)


def _reflection_pool() -> descriptor_pool.DescriptorPool:
    """Return the files that describe the services which reflection lists."""
    pool = descriptor_pool.DescriptorPool()
    own = pb.POOL.FindFileContainingSymbol(pb.SERVICE)
    for file in (own, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    return pool


def _handlers(servicer: _Servicer) -> grpc.GenericRpcHandler:
    """Return the handlers of the protocol's calls; gRPC answers UNIMPLEMENTED to all others."""
    found = {}
    for name, (request, response) in pb.METHODS.items():
        streams = name == "ModelInfer"
        made = (
            grpc.stream_unary_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        )
        found[name] = made(
            getattr(servicer, name),
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )
    return grpc.method_handlers_generic_handler(pb.SERVICE, found)


class _Servicer:
    """The protocol's calls, each as BentoML's neighbour over HTTP would answer it."""

    def __init__(
        self,
        inference: OpenInference,
        admission: Admission,
        limits: RequestLimits,
        token: Token,
        ready: Ready,
    ) -> None:
        self._inference, self._admission = inference, admission
        self._limits, self._token, self._is_ready = limits, token, ready

    async def ServerLive(self, request: Any, context: Any) -> Any:
        """Whether the server runs."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        """Whether every part of it is there."""
        return pb.ServerReadyResponse(ready=await self._ready())

    async def ModelReady(self, request: Any, context: Any) -> Any:
        """Whether a model answers."""
        async with self._errors(context, self._call(context)):
            self._inference.spec(request.name, request.version)
            return pb.ModelReadyResponse(ready=await self._ready())

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        """Name and version."""
        async with self._errors(context, self._call(context)):
            return pb.ServerMetadataResponse(
                name=SERVER_NAME, version=server_version(), extensions=EXTENSIONS
            )

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        """What a model takes and gives."""
        async with self._errors(context, self._call(context)):
            return pb.ModelMetadataResponse(
                **self._inference.metadata(request.name, request.version)
            )

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        """Which models there are."""
        async with self._errors(context, self._call(context)):
            state = "READY" if await self._ready() else "UNAVAILABLE"
            found = [
                pb.RepositoryIndexResponse.ModelIndex(
                    name=spec.name, version=spec.version, state=state
                )
                for spec in self._inference.specs
            ]
            return pb.RepositoryIndexResponse(models=found)

    async def ModelInfer(self, requests: AsyncIterator[Any], context: Any) -> Any:
        """A scan in, its regions out.

        Parameters
        ----------
        requests
            The one message, yet to be read.
        context
            The call.
        """
        call, held = self._call(context), ExitStack()
        held.callback(call.abandon)
        # runs once the answer is sent, or nobody waits for it: until then the call has its place
        context.add_done_callback(lambda _: held.close())
        metadata = dict(context.invocation_metadata() or ())
        with root_span("ModelInfer", metadata):
            return await self._infer(requests, context, call, held)

    async def _infer(
        self, requests: AsyncIterator[Any], context: Any, call: RequestContext, held: ExitStack
    ) -> Any:
        code = "CANCELLED"
        try:
            async with self._errors(context, call):
                held.enter_context(self._admission.slot())
                request = await self._message(requests, call)
                asked = await to_thread.run_sync(_asked, request)
                found = await self._inference.infer(asked, call)
                version = self._inference.spec(request.model_name).version
                response = _response(request, version, found)
                # a client that reads no further has a place no longer than any other
                timer = asyncio.get_running_loop().call_later(call.seconds_left, held.close)
                held.callback(timer.cancel)
                code = "OK"
                return response
        except asyncio.CancelledError:
            raise
        except grpc.aio.AbortError:
            code = context.code().name
            raise
        finally:
            log_request(call, code)

    async def _message(self, requests: AsyncIterator[Any], call: RequestContext) -> Any:
        """The one message of a call.

        Raises
        ------
        DeadlineExceeded
            It is not there in time: its sender holds a place meanwhile.
        ConfigError
            There is none, more than one, or one that cannot be read.
        """
        limit_s = min(call.seconds_left, self._limits.upload_s)
        found = []
        try:
            async with asyncio.timeout(limit_s):
                # to the end: a stream that is left before holds its last message for long
                async for request in requests:
                    found.append(request)
                    if len(found) > 1:
                        break
        except TimeoutError:
            raise DeadlineExceeded(
                expected=f"the whole message within {limit_s:.3g} s",
                found="only a part of it",
                remedy="Send it over a faster connection, or compress the scan.",
            ) from None
        except DecodeError:
            raise ConfigError(
                subject="ModelInfer",
                expected="a ModelInferRequest in protobuf's binary form",
                found="other bytes",
                remedy="Make the message with the protocol's own definition.",
            ) from None
        if len(found) != 1:
            raise ConfigError(
                subject="ModelInfer",
                expected="one message",
                found="more" if found else "none",
                remedy="Send one request in a call.",
            )
        return found[0]

    async def _ready(self) -> bool:
        return not self._admission.draining and await self._is_ready()

    def _call(self, context: Any) -> RequestContext:
        metadata = dict(context.invocation_metadata() or ())
        left = context.time_remaining()
        limit_s = self._limits.request_s if left is None else min(left, self._limits.request_s)
        return RequestContext(choose_request_id(metadata.get("x-request-id", "")), "grpc", limit_s)

    @asynccontextmanager
    async def _errors(self, context: Any, call: RequestContext) -> AsyncIterator[None]:
        """Errors as status codes; the same as over HTTP."""
        metadata = dict(context.invocation_metadata() or ())
        trace = current_trace_id()
        names = (("x-request-id", call.id), *((("x-trace-id", trace),) if trace else ()))
        await context.send_initial_metadata(names)
        try:
            self._token.require(str(metadata.get("authorization", "")).encode())
            yield
        except NeuroBentoError as error:
            name = GRPC_CODES.get(error_status(error), "UNKNOWN")
            kind = type(error).__name__
            logger.info(
                "request %s: %s %s",
                *(call.id, name, kind),
                extra={"request_id": call.id, "status": name, "error": kind},
            )
            trailing = (("error-type", kind), *error_headers(error).items())
            await context.abort(grpc.StatusCode[name], error.public_message, trailing)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        # its own words may hold a path; the log has kind and place
        except Exception:
            logger.exception("request %s failed", call.id, extra={"request_id": call.id})
            await context.abort(grpc.StatusCode.INTERNAL, "something went wrong here")


def _asked(request: Any) -> InferRequest:
    """A request without its transport.

    Raises
    ------
    ConfigError
        Its tensors are not what they say.
    """
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise ConfigError(
            subject="raw_input_contents",
            expected="one for each input, or none",
            found=f"{len(raws)} for {len(request.inputs)}",
            remedy="Send every input's content in the same way.",
        )
    inputs = []
    for i, tensor in enumerate(request.inputs):
        if raws:
            made = Tensor.of_raw(tensor.name, tensor.datatype, tensor.shape, raws[i])
        else:
            values = getattr(tensor.contents, CONTENTS.get(tensor.datatype, "bytes_contents"))
            made = Tensor.of_values(tensor.name, tensor.datatype, tensor.shape, values)
        inputs.append(made)
    return InferRequest(
        model=request.model_name,
        version=request.model_version,
        inputs=inputs,
        outputs=[output.name for output in request.outputs],
        parameters={
            name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
            for name, value in request.parameters.items()
        },
    )


def _response(request: Any, version: str, tensors: list[Tensor]) -> Any:
    outputs = [
        pb.ModelInferResponse.InferOutputTensor(
            name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
        )
        for tensor in tensors
    ]
    return pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=version,
        id=request.id,
        outputs=outputs,
        raw_output_contents=[tensor.raw for tensor in tensors],
    )
