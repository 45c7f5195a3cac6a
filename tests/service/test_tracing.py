"""One request is one trace, through all services, and its id comes back."""

from __future__ import annotations

import re
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.service.collector import Spans
from tests.service.conftest import TOKEN, wait_until

pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SHOWN = ("authorization", f"Bearer {TOKEN}")

TRACE = "0af7651916cd43dd8448eb211c80319c"
OTHER, REFUSED = "1af7651916cd43dd8448eb211c80319c", "2af7651916cd43dd8448eb211c80319c"
SERVICES = {"neurobento", "preprocessing", "runner-regions"}


def parent(trace: str) -> str:
    """The `traceparent` of a caller whose trace is to go on."""
    return f"00-{trace}-b7ad6b7169203331-01"


def spans_of(trace: str, stages: set[str], found: Spans) -> set[tuple[str, str]]:
    """(service, span) of a trace, once these stages and all services are told of in it."""

    def spans() -> set[tuple[str, str]]:
        return {(service, span) for each, service, span in found if each == trace}

    wait_until(
        lambda: stages <= {s for _, s in spans()} and {s for s, _ in spans()} >= SERVICES, 20
    )
    return spans()


def test_a_request_is_one_trace_through_all_services(
    tight: Any, collected: tuple[str, Spans], scan_of: Any
) -> None:
    answer = tight.client.post(
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
    tight: Any, collected: tuple[str, Spans], scan_of: Any
) -> None:
    """Its id is in the initial metadata, which a refused call gets as well."""
    with grpc.insecure_channel(tight.grpc) as channel:
        ask = GRPCInferenceServiceStub(channel).ModelInfer
        _, taken = ask.with_call(
            request_of(scan_of(7)), metadata=[SHOWN, ("traceparent", parent(OTHER))]
        )
        with pytest.raises(grpc.RpcError) as refused:
            ask(
                request_of(b"no scan at all" * 40),
                metadata=[SHOWN, ("traceparent", parent(REFUSED))],
            )
        calls = [ask.with_call(request_of(scan_of(8)), metadata=[SHOWN])[1] for _ in range(2)]
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
        model_name="regions",
        inputs=[scan],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="dseg")],
        parameters={"preprocessing": pb.InferParameter(string_param="none")},
    )
