"""One request is one trace, through all services, and its id comes back."""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.service.conftest import serving, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

TRACE = "0af7651916cd43dd8448eb211c80319c"
OTHER, REFUSED = "1af7651916cd43dd8448eb211c80319c", "2af7651916cd43dd8448eb211c80319c"
SERVICES = {"neurobento", "preprocessing", "runner-compact"}


@pytest.fixture(scope="module")
def collected() -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Address of a collector, and the (trace, service, span) it was told of."""
    messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    found: list[tuple[str, str, str]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in messages.ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {a.key: a.value.string_value for a in resource.resource.attributes}
                for scope in resource.scope_spans:
                    found.extend(
                        (span.trace_id.hex(), names["service.name"], span.name)
                        for span in scope.spans
                    )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", found
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def traced(
    known_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    collected: tuple[str, list[tuple[str, str, str]]],
) -> Iterator[Any]:
    home = tmp_path_factory.mktemp("traced")
    with serving(known_model.parent, home, OTLP_ENDPOINT=collected[0]) as server:
        yield server


def parent(trace: str) -> str:
    """The `traceparent` of a caller whose trace is to go on."""
    return f"00-{trace}-b7ad6b7169203331-01"


def spans_of(
    trace: str, stages: set[str], found: list[tuple[str, str, str]]
) -> set[tuple[str, str]]:
    """(service, span) of a trace, once these stages and all services are told of in it."""

    def spans() -> set[tuple[str, str]]:
        return {(service, span) for each, service, span in found if each == trace}

    wait_until(
        lambda: stages <= {s for _, s in spans()} and {s for s, _ in spans()} >= SERVICES, 20
    )
    return spans()


def test_a_request_is_one_trace_through_all_services(
    traced: Any, collected: tuple[str, list[tuple[str, str, str]]], scan_of: Any
) -> None:
    answer = traced.client.post(
        "/predict/?preprocessing=false",
        files={"file": ("JANE_DOE.nii.gz", scan_of(6))},
        headers={"traceparent": parent(TRACE)},
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-trace-id"] == TRACE
    ours = {"infer", "restore and measure", "encode"}
    spans = spans_of(TRACE, ours, collected[1])
    assert {service for service, _ in spans} == SERVICES
    assert {span for service, span in spans if service == "neurobento"} >= ours
    assert "JANE_DOE" not in str(collected[1])


def test_a_call_over_grpc_is_one_trace_too_and_without_one_begins_another(
    traced: Any, collected: tuple[str, list[tuple[str, str, str]]], scan_of: Any
) -> None:
    """Its id is in the initial metadata, which a refused call gets as well."""
    with grpc.insecure_channel(traced.grpc) as channel:
        ask = GRPCInferenceServiceStub(channel).ModelInfer
        _, taken = ask.with_call(request_of(scan_of(7)), metadata=[("traceparent", parent(OTHER))])
        with pytest.raises(grpc.RpcError) as refused:
            ask(request_of(b"no scan at all" * 40), metadata=[("traceparent", parent(REFUSED))])
        calls = [ask.with_call(request_of(scan_of(8)))[1] for _ in range(2)]
    assert dict(taken.initial_metadata())["x-trace-id"] == OTHER
    assert dict(refused.value.initial_metadata())["x-trace-id"] == REFUSED
    ours = {"ModelInfer", "infer", "restore and measure"}
    spans = spans_of(OTHER, ours, collected[1])
    assert {service for service, _ in spans} == SERVICES
    assert {span for service, span in spans if service == "neurobento"} >= ours
    ids = {dict(call.initial_metadata())["x-trace-id"] for call in calls}
    assert len(ids) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


def request_of(content: bytes) -> Any:
    scan = pb.ModelInferRequest.InferInputTensor(
        name="scan",
        datatype="BYTES",
        shape=[1],
        contents=pb.InferTensorContents(bytes_contents=[content]),
    )
    return pb.ModelInferRequest(
        model_name="compact",
        inputs=[scan],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="dseg")],
        parameters={"preprocessing": pb.InferParameter(string_param="none")},
    )
