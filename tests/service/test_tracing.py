"""One request is one trace, through all services, and its id comes back."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.service.conftest import serving, wait_until

pytestmark = pytest.mark.slow

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def collected() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Address of a collector, and the (service, span) it was told of the trace."""
    messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    found: list[tuple[str, str]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in messages.ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {a.key: a.value.string_value for a in resource.resource.attributes}
                for scope in resource.scope_spans:
                    found.extend(
                        (names["service.name"], span.name)
                        for span in scope.spans
                        if span.trace_id.hex() == TRACE
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


def test_a_request_is_one_trace_through_all_services(
    known_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    collected: tuple[str, list[tuple[str, str]]],
    scan_of: Any,
) -> None:
    endpoint, found = collected
    home = tmp_path_factory.mktemp("traced")
    with serving(known_model.parent, home, OTLP_ENDPOINT=endpoint) as server:
        answer = server.client.post(
            "/predict/?preprocessing=false",
            files={"file": ("JANE_DOE.nii.gz", scan_of(6))},
            headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"},
        )
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-trace-id"] == TRACE
        ours = {"infer", "restore and measure", "encode"}
        services = {"neurobento", "preprocessing", "runner-compact"}
        wait_until(lambda: ours <= {s for _, s in found} and services <= {s for s, _ in found}, 20)
    assert {service for service, _ in found} == services
    assert {span for service, span in found if service == "neurobento"} >= ours
    assert "JANE_DOE" not in str(found)
