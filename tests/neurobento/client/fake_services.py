"""Services on 127.0.0.1 that answer as a test says, over HTTP and over gRPC."""

from __future__ import annotations

import gzip
import io
import json
import socketserver
import struct
import threading
import time
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from neurobento.anomaly.heat_map_file import heat_map_png
from neurobento.errors import NeuroBentoError

LABELS = gzip.compress(b"labels", mtime=0)
MASK = gzip.compress(b"mask", mtime=0)
FILES = {
    "dseg.nii.gz": LABELS,
    "mask.nii.gz": MASK,
    "dseg.tsv": b"index\tname\n",
    "volumes.tsv": b"index\tvolume_mm3\n",
    "overlay.png": b"\x89PNG",
    "run.json": b'{"warnings": ["small"]}',
}
OUTPUTS = {"dseg": "dseg.nii.gz", "mask": "mask.nii.gz", "run": "run.json"}
HEAT_MAP = np.linspace(0, 2, 12, dtype=np.float32).reshape(3, 4)
ANOMALY_FILES = {
    "anomaly.json": b'{"score": 0.75, "threshold": 0.5}',
    "heatmap.png": heat_map_png(HEAT_MAP),
    "overlay.png": b"\x89PNG of a head",
}
ANOMALY_OUTPUTS = {"run": "anomaly.json", "overlay": "overlay.png"}


@dataclass(frozen=True)
class Files:
    """An answer: the zip over HTTP; over gRPC `dseg`, `mask` and `run`, or those of an anomaly."""

    files: Mapping[str, bytes] = field(default_factory=lambda: FILES)
    heat_map: Any = field(default_factory=lambda: HEAT_MAP)


@dataclass(frozen=True)
class Refusal:
    """An error in the service's shape: its class by name where there is one."""

    status: int
    code: str
    kind: str = ""
    message: str = ""
    retry_after: str | None = None

    @classmethod
    def of(cls, status: int, code: str, error: NeuroBentoError, after: str | None = None) -> Any:
        return cls(status, code, type(error).__name__, error.public_message, after)


@dataclass(frozen=True)
class Hang:
    """An answer that comes too late for everybody."""

    seconds: float = 20.0


@dataclass(frozen=True)
class Raw:
    """Any HTTP answer; `length` may promise more bytes, `pause_s` lies between them."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    pause_s: float = 0.0


@dataclass(frozen=True)
class Seen:
    """A request as it arrived: when, where, with what, and every byte of it."""

    at_s: float
    path: str
    headers: dict[str, str]
    fields: dict[str, Any]
    raw: bytes
    limit_s: float | None


class FakeService:
    """Answers the next request with the next of its replies; the last one stays."""

    def __init__(self) -> None:
        self.replies: list[Any] = [Files()]
        self.seen: list[Seen] = []
        self.ready = True
        self.ended = threading.Event()

    def next(self) -> Any:
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Hang):
            self.ended.wait(reply.seconds)
            return Files()
        return reply


class HttpService(FakeService):
    scheme = "http"

    def __init__(self, port: int = 0) -> None:
        super().__init__()
        self._server = _HttpServer(("127.0.0.1", port), _Handler)
        self._server.service = self
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _HttpServer(ThreadingHTTPServer):
    service: HttpService

    def handle_error(self, *_: Any) -> None:
        """A client that left is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # else head and body of an answer lie 40 ms apart
    disable_nagle_algorithm = True
    server: _HttpServer

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["content-length"])))

    def do_GET(self) -> None:
        self._answer(b"")

    do_DELETE = do_GET

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def _answer(self, body: bytes) -> None:
        service = self.server.service
        headers = {name.lower(): value for name, value in self.headers.items()}
        limit = headers.get("x-request-timeout")
        service.seen.append(
            Seen(
                time.monotonic(),
                self.path,
                headers,
                _form(headers.get("content-type", ""), body),
                self.raw_requestline + str(self.headers).encode() + body,
                float(limit) if limit else None,
            )
        )
        self._send(service.next(), headers.get("x-request-id", ""))

    def _send(self, reply: Any, request_id: str) -> None:
        if isinstance(reply, Files):
            reply = Raw(200, zipped(reply.files), {"content-type": "application/zip"})
        if isinstance(reply, Refusal):
            error = {"type": reply.kind, "message": reply.message, "request_id": request_id}
            after = {} if reply.retry_after is None else {"retry-after": reply.retry_after}
            reply = Raw(reply.status, json.dumps({"error": error}).encode(), after)
        self.send_response_only(reply.status)
        self.send_header("x-request-id", request_id)
        self.send_header("content-length", str(reply.length or len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        step = 1 if reply.pause_s else len(reply.body) or 1
        for start in range(0, len(reply.body), step):
            self.wfile.write(reply.body[start : start + step])
            self.wfile.flush()
            time.sleep(reply.pause_s)
        if reply.length:
            self.close_connection = True


def zipped(files: Mapping[str, bytes], stem: str = "scan_") -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for ending, content in files.items():
            target.writestr(f"{stem}{ending}", content)
    return archive.getvalue()


def _form(content_type: str, body: bytes) -> dict[str, Any]:
    """Fields of multipart form data; the file's is (its name, its bytes)."""
    _, _, boundary = content_type.partition("boundary=")
    fields: dict[str, Any] = {}
    for part in body.split(f"--{boundary}".encode())[1:-1] if boundary else []:
        head, _, value = part.partition(b"\r\n\r\n")
        names = dict(
            item.split("=", 1)
            for item in head.decode().replace("\r\n", "; ").split("; ")
            if "=" in item
        )
        name, file_name = names["name"].strip('"'), names.get("filename")
        fields[name] = (file_name.strip('"'), value[:-2]) if file_name else value[:-2].decode()
    return fields


class GrpcService(FakeService):
    """Over gRPC, by the Open Inference Protocol's stubs."""

    scheme = "grpc"

    def __init__(self, port: int = 0) -> None:
        super().__init__()
        self.models: list[tuple[str, str]] | None = None
        self._pool = ThreadPoolExecutor(4)
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Servicer(self), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.url = f"grpc://127.0.0.1:{self.port}"
        self._server.start()

    def close(self) -> None:
        self.ended.set()
        self._server.stop(0).wait(5)
        self._pool.shutdown()


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, service: GrpcService) -> None:
        self.service = service

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self._note("ModelInfer", request, context)
        reply = self.service.next()
        if isinstance(reply, Refusal):
            after = [] if reply.retry_after is None else [("retry-after", reply.retry_after)]
            context.set_trailing_metadata(
                [*after, *[("error-type", reply.kind)] * bool(reply.kind)]
            )
            context.abort(grpc.StatusCode[reply.code], reply.message)
        response = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        outputs = ANOMALY_OUTPUTS if request.inputs[0].name == "slice" else OUTPUTS
        for wanted in request.outputs:
            if wanted.name == "heat_map":
                _add_heat_map(response, reply.heat_map)
                continue
            content = reply.files.get(outputs[wanted.name])
            if wanted.name == "mask":
                # empty for an image that came without one
                content = content or b""
            if content is not None:
                response.outputs.add(name=wanted.name, datatype="BYTES", shape=[1])
                response.raw_output_contents.append(struct.pack("<I", len(content)) + content)
        return response

    def ServerReady(self, request: Any, context: Any) -> Any:
        self._note("ServerReady", request, context)
        return service_pb2.ServerReadyResponse(ready=self.service.ready)

    def RepositoryIndex(self, request: Any, context: Any) -> Any:
        if self.service.models is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")
        response = service_pb2.RepositoryIndexResponse()
        for name, version in self.service.models or []:
            response.models.add(name=name, version=version)
        return response

    def _note(self, method: str, request: Any, context: Any) -> None:
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        left = context.time_remaining()
        fields: dict[str, Any] = {}
        if method == "ModelInfer":
            raw = request.raw_input_contents[0]
            fields = {
                "file": ("scan", raw[4:]),
                "model": request.model_name,
                **{key: value.string_param for key, value in request.parameters.items()},
            }
            assert struct.unpack("<I", raw[:4]) == (len(raw) - 4,)
        self.service.seen.append(
            Seen(
                time.monotonic(),
                method,
                metadata,
                fields,
                request.SerializeToString() + repr(metadata).encode(),
                # without a deadline gRPC gives a number of centuries
                left if left is not None and left < 1e8 else None,
            )
        )


def _add_heat_map(response: Any, heat_map: Any) -> None:
    if heat_map is not None:
        kind = "FP32" if heat_map.dtype == np.float32 else "FP64"
        response.outputs.add(name="heat_map", datatype=kind, shape=heat_map.shape)
        response.raw_output_contents.append(heat_map.tobytes())


class HangingUp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.calls = 0
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def finish_request(self, *_: Any) -> None:
        self.calls += 1

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
