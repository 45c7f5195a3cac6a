"""The client: what it sends, what it makes of each answer, how long it goes on."""

from __future__ import annotations

import itertools
import json
import logging
import pickle
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobento import errors as e
from neurobento.client import AnomalyAnswer, Answer, Client, Retries
from neurobento.client.retries import Deadline
from tests.neurobento.client.fake_services import (
    ANOMALY_FILES,
    FILES,
    FakeService,
    Files,
    GrpcService,
    Hang,
    HangingUp,
    HttpService,
    Raw,
    Refusal,
    zipped,
)

CONTENT = bytes(range(256)) * 700
SOON = Retries(times=6, first_wait_s=0.01)
BUSY = Refusal(429, "RESOURCE_EXHAUSTED", "ServiceBusy", "expected a place; found none. Try later.")
AWAY = Refusal(503, "UNAVAILABLE", message="a part of the service is not there at the moment")
TOKEN = "correct-horse-battery-staple"
PARTS = {"expected": "a head", "found": "a tail", "remedy": "Turn it round."}
SERVICES = {"http": HttpService, "grpc": GrpcService}


@pytest.fixture
def http() -> Iterator[HttpService]:
    with closing(HttpService()) as service:
        yield service


@pytest.fixture
def grpc() -> Iterator[GrpcService]:
    with closing(GrpcService()) as service:
        yield service


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> Iterator[FakeService]:
    with closing(SERVICES[request.param]()) as opened:
        yield opened


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    path = tmp_path / "JANE_DOE_19570401.nii.gz"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def ask(url: str, scan: Path | str | bytes = CONTENT, **options: Any) -> Answer:
    with Client(url, **{"retries": SOON, **options}) as client:
        return client.parcellate(scan)


def test_the_scan_and_what_is_asked_of_it_arrive(service: FakeService) -> None:
    """The answer holds labels and run facts."""
    options: Any = {"model": "grand", "preprocessing": "stripped", "space": "network"}
    with Client(service.url) as client:
        answer = client.parcellate(CONTENT, **options)
    (seen,) = service.seen
    assert seen.fields == {"file": ("scan", CONTENT), **options}
    assert answer.request_id == seen.headers["x-request-id"]
    assert seen.limit_s is None
    assert answer.dseg == FILES["dseg.nii.gz"]
    assert answer.run == {"warnings": ["small"]}


def test_a_mask_comes_where_the_brain_was_found(service: FakeService) -> None:
    assert ask(service.url).files["mask.nii.gz"] == FILES["mask.nii.gz"]
    without = {name: content for name, content in FILES.items() if name != "mask.nii.gz"}
    service.replies = [Files(without)]
    assert "mask.nii.gz" not in ask(service.url).files


def test_without_a_model_the_default_one_answers(service: FakeService) -> None:
    ask(service.url)
    service.replies = [Files(ANOMALY_FILES)]
    ask_anomaly(service.url)
    # over HTTP the service chooses it; over gRPC a name is part of the protocol
    models = [None, None] if service.scheme == "http" else ["regions", "anomaly"]
    assert [seen.fields.get("model") for seen in service.seen] == models


def test_over_http_an_answer_holds_every_file_of_the_zip_but_those_of_other_names(
    http: HttpService,
) -> None:
    assert ask(http.url).files == FILES
    strange = {"../evil": b"", "a/b": b"", ".hidden": b"", "": b""}
    http.replies = [Files({**FILES, **strange, "report.html": b"new"})]
    # the prefix of a reverse proxy is kept
    assert ask(f"{http.url}/brains/").files == {**FILES, "report.html": b"new"}
    assert http.seen[1].path == "/brains/v1/parcellation"


def ask_anomaly(url: str, image: Path | str | bytes = CONTENT, **options: Any) -> AnomalyAnswer:
    with Client(url, **{"retries": SOON, **options}) as client:
        return client.anomaly(image)


def test_the_slice_arrives_and_what_was_found_comes_back(service: FakeService) -> None:
    """The same files either way; over gRPC one of them is made here."""
    service.replies = [Files(ANOMALY_FILES)]
    with Client(service.url) as client:
        answer = client.anomaly(CONTENT, model="grand")
    (seen,) = service.seen
    assert seen.fields == {"file": ("scan", CONTENT), "model": "grand"}
    assert seen.path == {"http": "/v1/anomaly", "grpc": "ModelInfer"}[service.scheme]
    assert answer.files == ANOMALY_FILES
    assert (answer.score, answer.threshold, answer.is_anomalous) == (0.75, 0.5, True)
    assert answer.facts == {"score": 0.75, "threshold": 0.5}
    assert answer.overlay == ANOMALY_FILES["overlay.png"]
    assert answer.request_id == seen.headers["x-request-id"]


@pytest.mark.parametrize(("files", "send"), [(FILES, "parcellate"), (ANOMALY_FILES, "anomaly")])
def test_a_busy_service_is_asked_again_and_the_files_name_never_sent(
    service: FakeService, patient: Path, files: dict[str, bytes], send: str
) -> None:
    service.replies = [BUSY, AWAY, Files(files)]
    with Client(service.url, token=TOKEN, retries=SOON) as client:
        getattr(client, send)(str(patient))
    assert len(service.seen) == 3
    assert len({seen.headers["x-request-id"] for seen in service.seen}) == 1
    assert not any(b"JANE" in seen.raw or b"1957" in seen.raw for seen in service.seen)


@pytest.mark.parametrize("send", ["parcellate", "anomaly"])
def test_what_a_scan_or_slice_is_refused_for_names_its_file_and_is_not_asked_again(
    service: FakeService, patient: Path, send: str
) -> None:
    service.replies = [Refusal.of(422, "INVALID_ARGUMENT", e.EmptyScan(**PARTS)), Files()]
    with Client(service.url, retries=SOON) as client, pytest.raises(e.EmptyScan) as caught:
        getattr(client, send)(patient)
    assert caught.value.subject == str(patient)
    assert len(service.seen) == 1


@pytest.mark.parametrize(
    "files",
    [
        {},
        {**ANOMALY_FILES, "anomaly.json": b"no JSON"},
        {**ANOMALY_FILES, "anomaly.json": b"[0.75, 0.5]"},
        {**ANOMALY_FILES, "anomaly.json": b'{"score": "high", "threshold": 0.5}'},
        {**ANOMALY_FILES, "anomaly.json": b'{"score": true, "threshold": 0.5}'},
        {**ANOMALY_FILES, "anomaly.json": b'{"score": 0.75}'},
        {**ANOMALY_FILES, "overlay.png": b"<html>"},
    ],
)
def test_what_is_no_answer_about_a_slice_is_an_error(
    service: FakeService, files: dict[str, bytes]
) -> None:
    service.replies = [Files(files)]
    with pytest.raises(e.ServiceError):
        ask_anomaly(service.url)


NAN = np.full((2, 2), np.nan, np.float32)


@pytest.mark.parametrize(
    "heat_map", [None, np.zeros((2, 2)), np.zeros(4, np.float32), np.zeros((0, 4), np.float32), NAN]
)
def test_a_heat_map_that_is_none_is_an_error(grpc: GrpcService, heat_map: Any) -> None:
    grpc.replies = [Files(ANOMALY_FILES, heat_map)]
    with pytest.raises(e.ServiceError, match="heat_map"):
        ask_anomaly(grpc.url)


def test_busy_and_missing_services_are_asked_again(service: FakeService) -> None:
    told: list[str] = []
    service.replies = [BUSY, AWAY, BUSY, Files()]
    ask(service.url, progress=lambda stage, _: told.append(stage))
    assert len(service.seen) == 4
    assert len({seen.headers["x-request-id"] for seen in service.seen}) == 1
    waits = [stage for stage in told if stage.startswith("waiting (")]
    busy, away = (f"waiting ({why}, trying again in 1 s)" for why in ("busy", "unavailable"))
    assert waits == [busy, away, busy]
    assert told[-1] == "done"


def test_tries_have_an_end(service: FakeService) -> None:
    service.replies = [BUSY]
    with pytest.raises(e.ServiceBusy) as caught:
        ask(service.url, retries=Retries(times=2, first_wait_s=0.01))
    assert len(service.seen) == 3
    assert str(caught.value) == f"{service.url}: {BUSY.message}"


def test_no_try_is_made_before_the_service_asks_for_it(service: FakeService) -> None:
    service.replies = [
        Refusal(429, "RESOURCE_EXHAUSTED", retry_after="0.4"),
        Refusal(503, "UNAVAILABLE", retry_after="0.2"),
        Files(),
    ]
    ask(service.url, retries=Retries(first_wait_s=0))
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(service.seen)]
    assert 0.4 <= gaps[0] < 2
    assert 0.2 <= gaps[1] < 2


@pytest.mark.parametrize("options", [{"timeout_s": 5.0}, {"retries": Retries(longest_wait_s=20)}])
def test_a_wait_longer_than_there_is_time_for_is_not_begun(
    service: FakeService, options: dict[str, Any]
) -> None:
    service.replies = [Refusal(429, "RESOURCE_EXHAUSTED", retry_after="60")]
    start = time.monotonic()
    with pytest.raises(e.ServiceBusy) as caught:
        ask(service.url, **options)
    assert time.monotonic() - start < 4
    assert caught.value.retry_after_s == 60
    assert len(service.seen) == 1


@pytest.mark.alone
def test_tries_and_waits_together_stay_within_the_limit(service: FakeService) -> None:
    service.replies = [BUSY]
    start = time.monotonic()
    # as the last try ended: refused with too little time for another, or cut short itself
    with pytest.raises((e.ServiceBusy, e.DeadlineExceeded)):
        ask(service.url, timeout_s=0.6, retries=Retries(times=1000, first_wait_s=0.05))
    assert time.monotonic() - start < 2
    assert len(service.seen) > 1
    assert service.seen[-1].at_s - start < 0.7


def test_each_try_is_given_what_is_left_of_the_limit(service: FakeService) -> None:
    service.replies = [BUSY, BUSY, Files()]
    ask(service.url, timeout_s=3, retries=Retries(first_wait_s=0.3))
    first, second, third = (seen.limit_s or 0 for seen in service.seen)
    assert 3 >= first > second > third > 0
    # the waits were 0.45 s at least; gRPC sends a time that it sent before again if that is near
    assert first - third > 0.45 - 0.03 * 3


KINDS = [getattr(e, name) for name in e.__all__ if name != "NeuroBentoError"]


def test_every_error_comes_back_as_itself_with_its_message(
    service: FakeService, patient: Path
) -> None:
    with Client(service.url, retries=Retries(times=0)) as client:
        for kind in KINDS:
            service.replies = [Refusal.of(422, "INVALID_ARGUMENT", kind(**PARTS))]
            with pytest.raises(e.NeuroBentoError) as caught:
                client.parcellate(patient)
            assert type(caught.value) is kind
            assert caught.value.public_message == kind(**PARTS).public_message
            of_scan = issubclass(kind, e.ScanError | e.PreprocessingError | e.RequestRefused)
            assert caught.value.subject == (str(patient) if of_scan else service.url)


@pytest.mark.parametrize(
    "message",
    [
        "expected `image` to be FP32 [N, 1, 91]; found 3.5 mm; found again. Send it. Or do not.",
        "expected 91 x 122 x 123 voxels of 1.5 mm; found 0.5 mm. `full` brings it there.",
    ],
)
def test_a_message_is_kept_to_the_letter_wherever_it_is_cut(
    service: FakeService, message: str
) -> None:
    service.replies = [Refusal(422, "INVALID_ARGUMENT", "NotOnNetworkGrid", message)]
    with pytest.raises(e.NotOnNetworkGrid) as caught:
        ask(service.url)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "INVALID_ARGUMENT", e.RequestRefused),
        (401, "UNAUTHENTICATED", e.NotAuthorised),
        (403, "PERMISSION_DENIED", e.RequestRefused),
        (404, "NOT_FOUND", e.RequestRefused),
        (413, "INVALID_ARGUMENT", e.RequestRefused),
        (499, "CANCELLED", e.ClientGone),
        (429, "RESOURCE_EXHAUSTED", e.ServiceBusy),
        (500, "INTERNAL", e.ServiceError),
        (501, "UNIMPLEMENTED", None),
        (503, "UNAVAILABLE", e.ServiceUnavailable),
        (504, "DEADLINE_EXCEEDED", e.DeadlineExceeded),
    ],
)
def test_words_that_are_not_ours_are_quoted_with_the_status(
    service: FakeService, status: int, code: str, kind: type[e.NeuroBentoError] | None
) -> None:
    service.replies = [Refusal(status, code, "Strange", "the cat\x1b[2J sat on it")]
    with pytest.raises(e.NeuroBentoError) as caught:
        ask(service.url, retries=Retries(times=0))
    assert kind is None or type(caught.value) is kind
    shown = f"HTTP {status} Strange" if service.scheme == "http" else f"gRPC {code}"
    assert caught.value.found == f"{shown}: the cat [2J sat on it"


def test_grpcs_own_limit_on_messages_is_no_queue_that_is_full(grpc: GrpcService) -> None:
    said = "SERVER: Received message larger than max (9 vs. 4)"
    grpc.replies = [Refusal(0, "RESOURCE_EXHAUSTED", message=said)]
    with pytest.raises(e.RequestRefused):
        ask(grpc.url)
    assert len(grpc.seen) == 1


def test_the_token_is_sent_and_never_shown(
    service: FakeService, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[Any] = []
    echo = f"Authorization: Bearer {TOKEN} is not known"
    service.replies = [BUSY, Refusal(401, "UNAUTHENTICATED", message=echo)]
    client = Client(service.url, token=TOKEN, retries=SOON, progress=lambda *s: told.append(s))
    with client, pytest.raises(e.NotAuthorised) as caught:
        client.parcellate(CONTENT)
    assert [seen.headers["authorization"] for seen in service.seen] == [f"Bearer {TOKEN}"] * 2
    printed = "".join(capfd.readouterr())
    for text in (str(caught.value), repr(client), repr(told), caplog.text, printed):
        assert TOKEN not in text
    assert "[token] is not known" in str(caught.value)


@pytest.mark.parametrize("token", ["", "two words", "line\n", "ключ"])
def test_a_token_that_no_header_can_hold_is_refused_unshown(token: str) -> None:
    with pytest.raises(e.ConfigError) as caught:
        Client("http://127.0.0.1:9", token=token)
    assert not token or token not in str(caught.value)


def test_redirections_are_not_followed_and_a_proxys_page_is_not_shown(http: HttpService) -> None:
    with closing(HttpService()) as elsewhere:
        http.replies = [Raw(307, b"", {"location": f"{elsewhere.url}/v1/parcellation"})]
        with pytest.raises(e.ServiceError) as caught:
            ask(http.url, token=TOKEN)
        assert caught.value.found == "HTTP 307 Temporary Redirect"
        assert elsewhere.seen == []
    http.replies = [Raw(502, b"<html>nginx</html>", {"content-type": "text/html"})]
    with pytest.raises(e.ServiceUnavailable) as unavailable:
        ask(http.url, retries=Retries(times=0))
    assert unavailable.value.found == "HTTP 502 Bad Gateway"


def test_proxies_of_the_environment_are_not_used(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ask(service.url).dseg == FILES["dseg.nii.gz"]


def test_a_service_that_hangs_up_is_unavailable() -> None:
    with closing(HangingUp()) as server:
        for scheme in SERVICES:
            with pytest.raises(e.ServiceUnavailable):
                ask(f"{scheme}://{server.address}", retries=Retries(times=2, first_wait_s=0.01))
            # gRPC's channel has a pace of its own
            assert server.calls == 3 if scheme == "http" else server.calls > 3


def test_half_an_answer_is_none(http: HttpService) -> None:
    whole = zipped(FILES)
    http.replies = [Raw(200, whole[:100], length=len(whole)), Files()]
    assert ask(http.url).files == FILES
    assert len(http.seen) == 2


@pytest.mark.parametrize("scheme", SERVICES)
def test_a_refused_connection_is_unavailable_and_not_ready(scheme: str, unused_port: int) -> None:
    told: list[str] = []
    url = f"{scheme}://127.0.0.1:{unused_port}"
    retries = Retries(times=2, first_wait_s=0.01)
    with pytest.raises(e.ServiceUnavailable) as caught:
        ask(url, retries=retries, progress=lambda stage, _: told.append(stage))
    assert caught.value.subject == url
    assert sum(stage.startswith("waiting (unavailable") for stage in told) == 2
    with Client(url) as client:
        assert client.ready() is False


@pytest.mark.parametrize("scheme", SERVICES)
def test_a_service_that_restarts_is_waited_for(scheme: str, unused_port: int) -> None:
    opened: list[FakeService] = []
    start = threading.Timer(0.5, lambda: opened.append(SERVICES[scheme](unused_port)))
    start.start()
    try:
        answer = ask(
            f"{scheme}://127.0.0.1:{unused_port}",
            retries=Retries(times=20, first_wait_s=0.2, longest_wait_s=0.2),
        )
        assert answer.dseg == FILES["dseg.nii.gz"]
    finally:
        start.join()
        opened[0].close()


@pytest.mark.alone
def test_a_service_that_does_not_answer_in_time_is_left(service: FakeService) -> None:
    service.replies = [Hang()]
    start = time.monotonic()
    with pytest.raises(e.DeadlineExceeded) as caught:
        ask(service.url, timeout_s=0.4)
    assert caught.value.expected == "an answer within 0.4 s"
    assert 0.4 <= time.monotonic() - start < 2
    assert len(service.seen) == 1


@pytest.mark.alone
def test_an_answer_that_trickles_is_left_at_the_limit(http: HttpService) -> None:
    http.replies = [Raw(200, bytes(1000), pause_s=0.05)]
    start = time.monotonic()
    with pytest.raises(e.DeadlineExceeded):
        ask(http.url, timeout_s=0.4)
    assert time.monotonic() - start < 2


def test_progress_counts_the_bytes(http: HttpService) -> None:
    told: list[tuple[str, int | None]] = []
    ask(http.url, progress=lambda *step: told.append(step))
    stages = [stage for stage, _ in itertools.groupby(told, key=lambda step: step[0])]
    assert stages == ["uploading", "waiting", "downloading", "done"]
    last = dict(told)
    assert last["uploading"] == len(CONTENT)
    assert last["downloading"] == len(zipped(FILES))
    assert last["done"] == sum(map(len, FILES.values()))


@pytest.mark.parametrize(
    "body",
    [
        b"<html>please log in</html>",
        zipped({}),
        zipped({"run.json": FILES["run.json"]}),
        zipped({**FILES, "dseg.nii.gz": b"labels"}),
        zipped({**FILES, "run.json": b"[]"}),
        zipped({**FILES, "run.json": b"{"}),
        zipped(FILES, stem="../scan_"),
        zipped(FILES)[:50] + b"\xff" + zipped(FILES)[51:],
        zipped(FILES)[:-10],
    ],
)
def test_an_answer_that_is_none_of_ours_is_an_error(http: HttpService, body: bytes) -> None:
    http.replies = [Raw(200, body)]
    with pytest.raises(e.ServiceError) as caught:
        ask(http.url)
    assert type(caught.value) is e.ServiceError
    assert len(http.seen) == 1


def test_a_missing_output_is_an_error(grpc: GrpcService) -> None:
    grpc.replies = [Files({"dseg.nii.gz": FILES["dseg.nii.gz"]})]
    with pytest.raises(e.ServiceError) as caught:
        ask(grpc.url)
    assert caught.value.expected == "an output run of one BYTES element"


def test_models_are_what_the_service_says_and_something_else_is_an_error(http: HttpService) -> None:
    models = [{"name": "regions", "version": "1.0.0"}]
    http.replies = [Raw(503), Raw(200, json.dumps({"models": models}).encode())]
    with Client(http.url, retries=SOON, token=TOKEN) as client:
        assert client.models() == models
        assert [seen.path for seen in http.seen] == ["/v1/models"] * 2
        assert http.seen[0].headers["authorization"] == f"Bearer {TOKEN}"
        http.replies = [Raw(200, b"[1, 2]")]
        with pytest.raises(e.ServiceError):
            client.models()


def test_over_grpc_models_need_an_index(grpc: GrpcService) -> None:
    with Client(grpc.url) as client:
        with pytest.raises(e.RequestRefused) as caught:
            client.models()
        assert caught.value.remedy == "Ask it over HTTP."
        assert caught.value.subject == grpc.url
        grpc.models = [("regions", "1.0.0")]
        assert client.models() == [{"name": "regions", "version": "1.0.0"}]


def test_ready_is_what_the_service_says(grpc: GrpcService, http: HttpService) -> None:
    for ready in (True, False):
        grpc.ready = ready
        http.replies = [Raw(200 if ready else 503)]
        for service in (grpc, http):
            with Client(service.url) as client:
                assert client.ready() is ready
    http.replies = [Raw(404)]
    with Client(http.url) as client, pytest.raises(e.RequestRefused):
        client.ready()


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:3000", "ftp://host/", "http://", "http://host:port", "http://host:65536"),
        *("http://ho st", "http://host/?model=regions", "http://jane:secret@host:3000"),
        *("grpc://host", "grpc://host:3001/path", "grpcs://jane:secret@host:3001"),
    ],
)
def test_an_address_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(e.ConfigError) as caught:
        Client(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://host", "http://[::1]:3000/a", "grpcs://host:3001"])
def test_addresses_of_these_forms_are_taken(url: str) -> None:
    with Client(url):
        pass


def test_a_limit_is_more_than_nothing_and_retries_are_not_negative() -> None:
    for timeout_s in (0, -1, float("nan"), float("inf")):
        with pytest.raises(e.ConfigError):
            Client("http://127.0.0.1:9", timeout_s=timeout_s)
    for field in ("times", "first_wait_s", "longest_wait_s"):
        with pytest.raises(e.ConfigError):
            Retries(**{field: -1})


@pytest.mark.parametrize(
    ("url", "package", "module", "extra"),
    [
        ("http://127.0.0.1:9", "httpx", "http", "client"),
        ("grpc://127.0.0.1:9", "grpc", "grpc", "grpc"),
        ("grpc://127.0.0.1:9", "numpy", "grpc", "grpc"),
    ],
)
def test_missing_packages_are_named_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, url: str, package: str, module: str, extra: str
) -> None:
    monkeypatch.delitem(sys.modules, f"neurobento.client.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(e.ConfigError, match=rf"no package {package}.*neurobento\[{extra}\]"):
        Client(url)


def test_a_missing_file_is_the_systems_error(http: HttpService, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ask(http.url, tmp_path / "none.nii.gz")
    assert http.seen == []


def test_waits_double_to_a_bound_and_chance_shortens_them_but_none_that_is_asked_for() -> None:
    random.seed(1)
    retries = Retries(first_wait_s=1, longest_wait_s=10)
    for failures, full in enumerate([1, 2, 4, 8, 10, 10], start=1):
        waits = [retries.wait_s(failures, None) for _ in range(200)]
        assert full / 2 <= min(waits) < 0.55 * full
        assert 0.95 * full < max(waits) <= full
    assert retries.wait_s(5000, None) <= 10
    waits = [Retries(longest_wait_s=1).wait_s(1, 30.0) for _ in range(200)]
    assert 30 <= min(waits) < max(waits) <= 33


def test_no_try_begins_after_the_deadline() -> None:
    tries: list[int] = []
    with pytest.raises(e.DeadlineExceeded):
        SOON.run(lambda: tries.append(1), Deadline.after(0.0), lambda *_: None)
    assert tries == []


@pytest.mark.parametrize("copied", [lambda error: pickle.loads(pickle.dumps(error)), None])
@pytest.mark.parametrize("kind", [e.ServiceBusy, e.ServiceUnavailable])
def test_when_to_try_again_stays_with_the_error(
    kind: type[e.ServiceError], copied: Callable[[Any], Any] | None
) -> None:
    error = kind(**PARTS, retry_after_s=2.5)
    copy = copied(error) if copied else kind(**error.about("there").parts)
    assert copy.retry_after_s == 2.5
    assert copy.public_message == error.public_message
    assert "retry_after_s" not in kind(**PARTS).parts
