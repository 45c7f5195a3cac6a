"""Malformed files sent to the running service: each is the client's fault, and leaves no trace."""

from __future__ import annotations

import functools
import gzip
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.malformed_files.cases import Case, bad_requests, malformed
from tests.malformed_files.foreign_files import CANARY
from tests.malformed_files.process import memory_bytes, processor_s, reset_peak
from tests.malformed_files.scan_bytes import SECRET, network
from tests.service.conftest import descendants

SEED, COUNT = 11, 1600
SAMPLE = int(os.environ.get("NEUROBENTO_TEST_MALFORMED", "150"))
"""Files for each way in, beside file names; all that there are with a number such as 1600."""

MANY = 1000
"""Files that a way in gets at least, where as many are asked for."""

MAX_S, BUSY_MACHINE = 2.0, 5
MAX_BYTES = 300_000_000
MAX_BODY_BYTES = 30 << 20
ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@dataclass(frozen=True)
class Answer:
    """What a client hears of one file.

    Attributes
    ----------
    taken, refused
        Whether it got labels, or was told in the proper form that it is at
        fault. Neither: the service failed.
    error, text
        Class of the error, and all that was answered.
    """

    taken: bool
    refused: bool
    error: str
    text: str


CODERS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}

Sender = Callable[[Any, Case], Answer]


def over_http(server: Any, case: Case) -> Answer:
    """Send a file to `POST /v1/parcellation`, under its name to the byte."""
    name = case.file_name.encode("utf-8", "surrogatepass")
    parts = [
        *(
            f'--part\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
            for key, value in case.options.items()
        ),
        b'--part\r\nContent-Disposition: form-data; name="file"; filename="' + name + b'"\r\n',
        b"Content-Type: application/octet-stream\r\n\r\n" + case.content + b"\r\n--part--\r\n",
    ]
    headers = {"content-type": "multipart/form-data; boundary=part", "accept": "application/gzip"}
    content = b"".join(parts)
    if case.coding:
        headers["content-encoding"] = case.coding
        coded = CODERS.get(case.coding.lower(), bytes)(content)
        content = coded[: round(case.sent_share * len(coded))]
    answer = server.client.post("/v1/parcellation", content=content, headers=headers)
    if answer.status_code == 200:
        return Answer(True, False, "", "")
    error = _error_of(answer)
    refused = 400 <= answer.status_code < 500 and bool(error)
    return Answer(False, refused, error, f"{answer.status_code} {answer.text}")


def _error_of(answer: Any) -> str:
    """The error's class, if the answer has the one shape there is."""
    if answer.headers["content-type"] != "application/json":
        return ""
    error = answer.json().get("error", {})
    whole = error.keys() == {"type", "message", "request_id"}
    return str(error["type"]) if whole and answer.json().keys() == {"error"} else ""


def over_grpc(server: Any, case: Case) -> Answer:
    """Send a file's content to ModelInfer, which knows no file names."""
    content = pb.InferTensorContents(bytes_contents=[case.content])
    scan = pb.ModelInferRequest.InferInputTensor(
        name="scan", datatype="BYTES", shape=[1], contents=content
    )
    asked = pb.ModelInferRequest(
        model_name="regions",
        inputs=[scan],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="dseg")],
        parameters={
            name: pb.InferParameter(string_param=value) for name, value in case.options.items()
        },
    )
    with grpc.insecure_channel(server.grpc, [("grpc.max_receive_message_length", -1)]) as channel:
        try:
            GRPCInferenceServiceStub(channel).ModelInfer(asked, timeout=60)
        except grpc.RpcError as error:
            code = error.code()
            kind = dict(error.trailing_metadata() or ()).get("error-type", "")
            refused = code == grpc.StatusCode.INVALID_ARGUMENT and bool(kind)
            return Answer(False, refused, kind, f"{code.name} {error.details()}")
    return Answer(True, False, "", "")


SENDERS = [pytest.param(over_http, id="http"), pytest.param(over_grpc, id="grpc")]


@functools.cache
def contents() -> tuple[list[Case], list[Case]]:
    """The file names, and all other cases with the kinds in turn."""
    kinds: dict[str, list[Case]] = {}
    for case in malformed(SEED, COUNT):
        if len(case.content) < MAX_BODY_BYTES:
            kinds.setdefault(case.kind, []).append(case)
    names = kinds.pop("file name")
    # the last of a kind first: there the damage is the greatest
    turns = chain.from_iterable(zip_longest(*(reversed(each) for each in kinds.values())))
    return names, [case for case in turns if case]


def sample(send: Sender) -> tuple[list[Case], int]:
    """Every file name where there are any, every bad request, and as many of each other kind.

    And how many cases there are for this way in.
    """
    names, others = contents()
    known = [*(names if send is over_http else []), *bad_requests(send is over_http)]
    return [*known, *others[:SAMPLE]], len(known) + len(others)


@dataclass(frozen=True)
class Outcome:
    """What came of one file, and what it cost all processes of the server together."""

    case: Case
    answer: Answer
    processor_s: float
    wall_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Campaign:
    """All that was sent, and what is left of it."""

    outcomes: list[Outcome]
    there_are: int
    growth_bytes: int
    log: str


def resident_bytes(server: Any) -> int:
    return sum(memory_bytes("VmRSS", process) for process in descendants(server.pid))


def measured(send: Sender, server: Any, case: Case) -> Outcome:
    """The outcome; memory is bounded by the sum of every process's own peak."""
    processes = descendants(server.pid)
    for process in processes:
        reset_peak(process)
    before, worked_s = resident_bytes(server), sum(map(processor_s, processes))
    start = time.perf_counter()
    answer = send(server, case)
    wall_s = time.perf_counter() - start
    processes = descendants(server.pid)
    return Outcome(
        case,
        answer,
        sum(map(processor_s, processes)) - worked_s,
        wall_s,
        sum(memory_bytes("VmHWM", process) for process in processes) - before,
    )


@pytest.fixture(scope="module", params=SENDERS)
def campaign(server: Any, request: pytest.FixtureRequest) -> Campaign:
    """The sample, sent one file after the other."""
    send: Sender = request.param
    good = Case("good", network(), None)
    assert send(server, good).taken
    before = resident_bytes(server)
    cases, there_are = sample(send)
    outcomes = [measured(send, server, case) for case in cases]
    growth_bytes = resident_bytes(server) - before
    assert send(server, good).taken
    return Campaign(outcomes, there_are, growth_bytes, server.log.read_text(errors="replace"))


def test_no_malformed_file_makes_the_service_fail_and_each_is_refused_for_what_it_is(
    campaign: Campaign,
) -> None:
    failed = [
        (each.case.name, each.answer.text)
        for each in campaign.outcomes
        if not each.answer.refused and not (each.answer.taken and each.case.expected is None)
    ]
    assert failed == []
    assert len(campaign.outcomes) >= min(SAMPLE, campaign.there_are)
    assert SAMPLE < MANY or len(campaign.outcomes) >= MANY
    wrong = [
        (each.case.name, each.answer.text)
        for each in campaign.outcomes
        if each.case.expected is not None and each.answer.error not in _right(each.case)
    ]
    assert wrong == []


def _right(case: Case) -> set[str]:
    """The names of the errors; a file name may also end its part of the form: no file then."""
    form = {"BadRequest"} if case.kind in ("file name", "option") else set()
    if case.kind == "unknown coding":
        form = {"UnsupportedContentEncoding"}
    if case.kind == "coding cut short":
        form = {"CorruptContentEncoding", "BadRequest"}
    return form | {kind.__name__ for kind in _leaves(case.expected or ())}


def _leaves(kinds: tuple[type, ...]) -> Iterator[type]:
    for kind in kinds:
        yield kind
        yield from _leaves(tuple(kind.__subclasses__()))


def test_none_takes_long_or_much_memory(campaign: Campaign) -> None:
    slowest = max(campaign.outcomes, key=lambda each: each.processor_s)
    assert slowest.processor_s < MAX_S, slowest.case.name
    # a file that made the server wait would take no time of the processor
    assert max(each.wall_s for each in campaign.outcomes) < BUSY_MACHINE * MAX_S
    largest = max(campaign.outcomes, key=lambda each: each.peak_bytes)
    assert largest.peak_bytes < MAX_BYTES, largest.case.name
    assert campaign.growth_bytes < MAX_BYTES


def test_answers_and_log_repeat_nothing_of_the_files(campaign: Campaign) -> None:
    private = SECRET.decode(), CANARY, "/tmp", "Traceback"
    told = [
        (each.case.name, each.answer.text)
        for each in campaign.outcomes
        if any(word in each.answer.text for word in private)
    ]
    assert told == []
    assert [word for word in (SECRET.decode(), CANARY) if word in campaign.log] == []


def test_no_file_name_and_no_content_creates_a_file(campaign: Campaign, server: Any) -> None:
    assert campaign.outcomes
    places = [ROOT, server.log.parent, Path(tempfile.gettempdir())]
    assert [path for place in places for path in _named_like_an_attack(place)] == []
    around = [*ROOT.parents, Path("/etc"), Path.home(), Path("/tmp")]
    assert [path for place in around for path in place.glob(f"*{CANARY}*")] == []


def _named_like_an_attack(folder: Path) -> list[str]:
    return [
        name
        for _, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if CANARY in name
    ]
