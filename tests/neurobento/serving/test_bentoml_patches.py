"""The patches of BentoML and circus: each has its effect, and BentoML still needs it."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import inspect
import io
import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import prometheus_client
import pytest
from bentoml._internal.marshal.dispatcher import CorkDispatcher, Optimizer
from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware
from bentoml._internal.utils import circus
from bentoml.exceptions import BentoMLException
from circus.sighandler import SysHandler
from prometheus_client import CollectorRegistry
from starlette.datastructures import UploadFile
from starlette.requests import Request

from neurobento.serving import bentoml_patches
from neurobento.serving.bentoml_patches import (
    POLL_NETWORK_S,
    TESTED_VERSIONS,
    apply_patches,
    patch_batch_dispatcher,
    patch_signal_handler,
    patch_traffic_metrics,
    patch_uploads,
    tracer_provider,
)
from neurobento.serving.http.paths import is_known_path

BOUNDARY = "part-of-a-form"


@pytest.fixture
def serde(monkeypatch: pytest.MonkeyPatch) -> Any:
    """BentoML's reader of forms with its hooks replaced; afterwards it is as it was."""
    from _bentoml_impl.serde import MultipartSerde

    for name in ("ensure_file", "parse_request"):
        original = inspect.getattr_static(MultipartSerde, name)
        monkeypatch.setattr(MultipartSerde, name, original)
    patch_uploads()
    return MultipartSerde


@pytest.fixture(autouse=True)
def no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever opens a client fails the test."""
    import _bentoml_impl.serde  # noqa: F401 (first, for it needs the client as it is)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the server opened a connection")

    monkeypatch.setattr(httpx, "AsyncClient", refuse)


class Form:
    """As much of the model of a form as BentoML's reader asks for."""

    multipart_fields = ("file",)
    model_fields = {  # noqa: RUF012
        "file": SimpleNamespace(annotation=Path),
        "model": SimpleNamespace(annotation=str),
        "preprocessing": SimpleNamespace(annotation=str),
        "space": SimpleNamespace(annotation=str),
    }

    @staticmethod
    def model_validate(data: dict[str, Any]) -> dict[str, Any]:
        return data


def part(name: str, value: str | bytes, file_name: str | None = None) -> bytes:
    """One part of a form; a file if it has a file name."""
    disposition = f'form-data; name="{name}"'
    if file_name is not None:
        disposition += f'; filename="{file_name}"'
    content = value.encode() if isinstance(value, str) else value
    head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n"
    return head.encode() + content + b"\r\n"


SCAN = part("file", b"\x1f\x8b scan", "JANE_DOE.nii.gz")


def read(
    serde: Any, *parts: bytes, content_type: str | None = None, form: type = Form
) -> dict[str, Any]:
    """What the reader makes of a form; of a file, its name and content."""
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    kind = content_type or f"multipart/form-data; boundary={BOUNDARY}"

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    # Starlette's errors are another kind outside of an application
    scope = {"type": "http", "headers": [(b"content-type", kind.encode())], "app": object()}

    async def take() -> dict[str, Any]:
        request = Request(scope, receive)
        try:
            found: dict[str, Any] = await serde().parse_request(request, form)
            found["file"] = found["file"].filename, await found["file"].read()
            return found
        finally:
            await request.close()

    return asyncio.run(take())


def refusal(serde: Any, *parts: bytes, **options: Any) -> str:
    """What is said of a form that is not taken."""
    with pytest.raises(BentoMLException) as caught:
        read(serde, *parts, **options)
    assert caught.value.error_code == 400
    return str(caught.value)


def test_bentoml_still_fetches_and_takes_all_by_itself() -> None:
    """The day it does not, the hooks can go."""
    import _bentoml_impl.serde

    source = inspect.getsource(_bentoml_impl.serde)
    assert "self.ensure_file(v) for v in form.getlist(k)" in source
    assert "await request.form()" in source


def test_a_file_and_its_options_pass_but_its_name_is_forgotten(serde: Any) -> None:
    found = read(serde, SCAN, part("model", "regions"), part("space", "native"))
    assert (found["model"], found["space"]) == ("regions", "native")
    assert found["file"][1] == b"\x1f\x8b scan"
    assert read(serde, SCAN)["file"][0] == "scan"
    content = bytes(3 << 20)
    assert read(serde, part("file", content, "scan"))["file"][1] == content


def test_two_files_or_a_file_in_another_field_are_a_bad_request(serde: Any) -> None:
    assert "1 file" in refusal(serde, SCAN, part("file", b"scan", "scan"))
    assert "1 file" in refusal(serde, SCAN, part("model", b"scan", "scan"))
    assert "in another" in refusal(serde, part("model", b"scan", "scan"))


def test_a_ninth_or_a_long_field_is_a_bad_request(serde: Any) -> None:
    fields = [part(f"f{i}", "x") for i in range(9)]
    assert "8 fields" in refusal(serde, SCAN, *fields)
    assert read(serde, SCAN, part("model", "x" * 1024))["model"] == "x" * 1024
    message = refusal(serde, SCAN, part("model", "JANE_DOE" * 129))
    assert "1024 bytes" in message
    assert "JANE_DOE" not in message


FIELDS = {
    "misspelt": (("preprocesing", "none"), "Did you mean `preprocessing`?"),
    "misspelt model": (("modle", "compact"), "Did you mean `model`?"),
    "in capitals": (("Space", "native"), "Did you mean `space`?"),
    "of another tool": (("threads", "4"), "`file`, `model`, `preprocessing` and `space`"),
    "without a name": (("", "none"), "found ''"),
    "twice": (("model", "compact"), "'model' 2 times"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_an_unknown_field_or_one_sent_twice_is_a_bad_request(serde: Any, case: str) -> None:
    field, hint = FIELDS[case]
    assert hint in refusal(serde, part("model", "regions"), SCAN, part(*field))


def test_a_long_unknown_name_is_not_repeated(serde: Any) -> None:
    message = refusal(serde, SCAN, part("JANE_DOE_1970_" * 4, "1"))
    assert "56 other characters" in message
    assert "JANE" not in message


def test_an_option_of_predict_in_its_form_is_sent_to_the_query(serde: Any) -> None:
    class FileAlone(Form):
        model_fields = {"file": SimpleNamespace(annotation=Path)}  # noqa: RUF012

    message = refusal(serde, SCAN, part("preprocessing", "true"), form=FileAlone)
    assert "/predict/?preprocessing=true" in message


@pytest.mark.parametrize(
    "value", ["true", "0", "1.5", "null", "[1]", "{}", "full", '"full', "[" * 1000]
)
def test_a_field_arrives_as_the_text_that_was_sent(serde: Any, value: str) -> None:
    assert read(serde, SCAN, part("preprocessing", value))["preprocessing"] == value


def test_a_field_in_json_arrives_as_its_text(serde: Any) -> None:
    """BentoML's own client sends every field so."""
    assert read(serde, SCAN, part("preprocessing", '"none"'))["preprocessing"] == "none"


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=x"])
def test_what_is_no_form_is_a_bad_request(serde: Any, content_type: str) -> None:
    assert "no whole form" in refusal(serde, SCAN, content_type=content_type)


def test_text_in_a_file_field_is_a_bad_request_that_does_not_repeat_it(serde: Any) -> None:
    for value in ("http://127.0.0.1:1/x", "file:///etc/passwd", "", "text"):
        assert "found text" in refusal(serde, part("file", value))
    address = "http://somewhere.example/JANE_DOE.nii"
    assert "JANE_DOE" not in refusal(serde, part("file", address))


def test_a_file_passes_the_hook_as_it_is_and_limits_are_set_once(serde: Any) -> None:
    upload = UploadFile(io.BytesIO(b"scan"), filename="scan")
    assert asyncio.run(serde.ensure_file(upload)) is upload
    before = serde.parse_request, serde.ensure_file
    patch_uploads()
    assert (serde.parse_request, serde.ensure_file) == before


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """BentoML's own parts come back after a test."""
    kinds = {
        CorkDispatcher: ("TICKET_INTERVAL", "train_optimizer"),
        Optimizer: ("trigger_refresh",),
    }
    for kind, names in kinds.items():
        for name in names:
            monkeypatch.setattr(kind, name, getattr(kind, name))


BATCH_S, BURST = 0.03, 120


async def seconds_alone_after_a_burst() -> float:
    """Of one call to an idle network, after many at once and with BentoML's own batching."""
    taken: list[int] = []

    async def network(batch: Any) -> Any:
        await asyncio.sleep(BATCH_S)
        taken.append(len(batch))
        return batch

    batching = CorkDispatcher(
        max_latency_in_ms=10_000_000, max_batch_size=4, fallback=lambda: None, get_batch_size=len
    )
    ask = batching(network)
    try:
        await asyncio.gather(*(ask([i]) for i in range(BURST)))
        assert sum(taken) == BURST
        assert max(taken) == 4, "calls that wait go together"
        # it does every five seconds
        batching.optimizer.trigger_refresh()
        start = time.perf_counter()
        await ask([0])
        return time.perf_counter() - start
    finally:
        batching.shutdown()


@pytest.mark.alone
def test_nobody_waits_for_company_after_a_burst(untouched: None) -> None:
    held_back_s = asyncio.run(seconds_alone_after_a_burst())
    patch_batch_dispatcher()
    alone_s = asyncio.run(seconds_alone_after_a_burst())
    assert alone_s < 3 * BATCH_S
    assert held_back_s > 2 * alone_s, "BentoML no longer needs this"


def test_bentoml_still_looks_as_often_as_it_is_told(untouched: None) -> None:
    patch_batch_dispatcher()
    assert CorkDispatcher.TICKET_INTERVAL == POLL_NETWORK_S
    waits = "asyncio.sleep(self.TICKET_INTERVAL)"
    assert waits in inspect.getsource(CorkDispatcher.controller)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Any:
    """BentoML's own counter of requests in front of an application that answers all."""
    monkeypatch.setattr(
        RunnerTrafficMetricsMiddleware, "__call__", RunnerTrafficMetricsMiddleware.__call__
    )
    patch_traffic_metrics(is_known_path)
    registry = CollectorRegistry()
    kinds = ("Histogram", "Counter", "Gauge", "Summary")
    client = SimpleNamespace(
        **{
            kind: functools.partial(getattr(prometheus_client, kind), registry=registry)
            for kind in kinds
        }
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    counter = RunnerTrafficMetricsMiddleware(app, namespace="test")
    counter._setup(metrics_client=client, duration_buckets=(1.0, float("inf")))
    return SimpleNamespace(app=counter, registry=registry)


def ask(app: Any, path: str) -> bytes:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "path": path}, None, send))
    return bytes(sent[-1]["body"])


def endpoints(registry: CollectorRegistry) -> set[str]:
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    return {sample.labels["endpoint"] for sample in samples if "endpoint" in sample.labels}


def test_paths_that_there_are_are_counted_and_others_pass_uncounted(counting: Any) -> None:
    for path in ("/predict/", "/v2/models/regions/infer"):
        assert ask(counting.app, path) == path.encode()
    before = endpoints(counting.registry)
    assert {"/predict/", "/v2/models/regions/infer"} <= before
    for path in ("/wp-login.php", "/v2/models/a/b", "/predict"):
        assert ask(counting.app, path) == path.encode()
    assert endpoints(counting.registry) == before


def test_bentoml_still_counts_with_the_class_that_is_changed() -> None:
    """And what it counts by is still the path as it came."""
    from _bentoml_impl.server.app import ServiceAppFactory
    from bentoml._internal.server.http import instruments

    assert "RunnerTrafficMetricsMiddleware" in inspect.getsource(ServiceAppFactory)
    assert 'endpoint = scope["path"]' in inspect.getsource(instruments)


@pytest.fixture
def restored(untouched: None, serde: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every patched part comes back after a test."""
    parts = (
        (RunnerTrafficMetricsMiddleware, "__call__"),
        (circus.Arbiter, "__init__"),
        (SysHandler, "quit"),
    )
    for part, name in parts:
        monkeypatch.setattr(part, name, getattr(part, name))


@pytest.fixture
def warnings_of(restored: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The warnings when all patches are applied to some version of BentoML."""

    def warnings(version: str) -> list[str]:
        records: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = records.append  # type: ignore[method-assign]
        monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
        bentoml_patches.logger.addHandler(handler)
        try:
            apply_patches(is_known_path=is_known_path, drain=lambda stop: stop())
        finally:
            bentoml_patches.logger.removeHandler(handler)
        return [record.getMessage() for record in records if record.levelno == logging.WARNING]

    return warnings


@pytest.mark.parametrize("version", TESTED_VERSIONS)
def test_a_tested_version_is_patched_without_a_word(warnings_of: Any, version: str) -> None:
    assert warnings_of(version) == []
    assert CorkDispatcher.TICKET_INTERVAL == POLL_NETWORK_S


def test_another_version_is_patched_and_the_log_names_what_to_check(warnings_of: Any) -> None:
    (warning,) = warnings_of("9.9.9")
    assert "9.9.9" in warning
    patches = [name for name in bentoml_patches.__all__ if name.startswith("patch_")]
    assert len(patches) == 5
    assert all(name in warning for name in (*patches, "tracer_provider"))
    assert CorkDispatcher.TICKET_INTERVAL == POLL_NETWORK_S


def test_the_installed_version_is_a_tested_one() -> None:
    assert importlib.metadata.version("bentoml") in TESTED_VERSIONS


def test_a_signal_goes_to_the_drain_and_the_drain_stops_the_services(
    restored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[Any] = []
    monkeypatch.setattr(SysHandler, "quit", stopped.append)
    stops: list[Any] = []
    patch_signal_handler(stops.append)
    handler = object()
    SysHandler.quit(handler)
    assert stopped == []
    stops[0]()
    assert stopped == [handler]


def test_spans_of_ours_go_through_bentomls_provider() -> None:
    assert hasattr(tracer_provider(), "get_tracer")
