"""The front holds no more after many requests than after a few."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.malformed_files.cases import Case
from tests.malformed_files.process import memory_bytes
from tests.malformed_files.scan_bytes import network
from tests.service.conftest import process_of
from tests.service.test_malformed import over_grpc, over_http

AT_ONCE = 16
FEW, MORE = 64, 96
MOST_BYTES = 25 << 20
"""Of growth; what held each message for some time grew by 35 MiB and more."""

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.mark.parametrize("send", [over_http, over_grpc])
def test_many_requests_leave_nothing_in_memory(server: Any, send: Any) -> None:
    case = Case("good", network(), None)
    front = process_of(server.pid, "neurobento")

    def ask(count: int) -> int:
        with ThreadPoolExecutor(AT_ONCE) as clients:
            answers = list(clients.map(lambda _: send(server, case), range(count)))
        # the next of a client may come before its last one's slot is free: that is refused
        assert sum(answer.taken for answer in answers) > count / 4
        assert all(answer.taken or answer.refused for answer in answers)
        return memory_bytes("VmRSS", front)

    before = ask(FEW)
    assert ask(MORE) - before < MOST_BYTES
