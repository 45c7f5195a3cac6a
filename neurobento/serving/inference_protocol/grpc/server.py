"""Serve the Open Inference Protocol over gRPC on a port of its own, with health and reflection.

BentoML's new-style services have no gRPC. Slots, deadlines, token and metrics are shared with HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from neurobento.contract import inference_protocol as pb
from neurobento.errors import ConfigError
from neurobento.serving.admission import Admission
from neurobento.serving.inference_protocol.grpc.servicer import Servicer
from neurobento.serving.inference_protocol.protocol import OpenInference
from neurobento.serving.request import RequestLimits
from neurobento.serving.token import Token

__all__ = ["GrpcServer"]

MAX_RPCS = 1000
"""Concurrent calls of all kinds; a call without a slot holds no more than its headers."""

HEALTH_CHECK_S = 1.0
STOP_GRACE_S = 5.0


class GrpcServer:
    """The gRPC server, in the event loop of the service."""

    def __init__(
        self,
        inference: OpenInference,
        admission: Admission,
        limits: RequestLimits,
        token: Token,
        is_ready: Callable[[], Awaitable[bool]],
    ) -> None:
        self._admission, self._is_ready = admission, is_ready
        self._health = health.aio.HealthServicer()
        self._health_task: asyncio.Task[None] | None = None
        size = limits.body_bytes
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", size),
                # a second server on the port would take half of the calls
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=MAX_RPCS,
        )
        servicer = Servicer(inference, admission, limits, token, is_ready)
        self._server.add_generic_rpc_handlers((_rpc_handlers(servicer),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (pb.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, _reflection_pool())

    async def start(self, host: str, port: int) -> int:
        """Start to answer and return the port, which the system chooses if `port` is 0."""
        try:
            bound = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise ConfigError(
                subject="NEUROBENTO_GRPC_PORT",
                expected=f"port {port} on {host} to be free for gRPC",
                found="a port in use",
                remedy="Name another in NEUROBENTO_GRPC_PORT, or 0 for no gRPC.",
            )
        # before the first answer: the library's default is SERVING
        await self._set_health(False)
        await self._server.start()
        self._health_task = asyncio.ensure_future(self._update_health())
        return int(bound)

    async def _update_health(self) -> None:
        while True:
            await self._set_health(not self._admission.draining and await self._is_ready())
            await asyncio.sleep(HEALTH_CHECK_S)

    async def _set_health(self, is_serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in ("", pb.SERVICE):
            await self._health.set(name, status.SERVING if is_serving else status.NOT_SERVING)

    async def stop(self) -> None:
        if self._health_task is not None:
            self._health_task.cancel()
        await self._server.stop(grace=STOP_GRACE_S)


def _reflection_pool() -> descriptor_pool.DescriptorPool:
    """Return the files that describe the services which reflection lists."""
    pool = descriptor_pool.DescriptorPool()
    own = pb.POOL.FindFileContainingSymbol(pb.SERVICE)
    for file in (own, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    return pool


def _rpc_handlers(servicer: Servicer) -> grpc.GenericRpcHandler:
    """Return the handlers of the protocol's calls; gRPC answers UNIMPLEMENTED to all others.

    ModelInfer is a stream of one message, read only once the call has shown the token and has a
    slot.
    """
    handlers = {}
    for name, (request, response) in pb.METHODS.items():
        make_handler = (
            grpc.stream_unary_rpc_method_handler
            if name == "ModelInfer"
            else grpc.unary_unary_rpc_method_handler
        )
        handlers[name] = make_handler(
            getattr(servicer, name),
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )
    return grpc.method_handlers_generic_handler(pb.SERVICE, handlers)
