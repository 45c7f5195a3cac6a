"""Over a thousand malformed files are refused correctly, quickly and with little memory."""

from __future__ import annotations

import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.malformed_files.cases import damaged
from tests.malformed_files.foreign_files import CANARY
from tests.malformed_files.run import Outcome, outcomes
from tests.malformed_files.scan_bytes import SECRET

SEED, COUNT = 7, 2000
LEAST_REFUSED = 1000
MAX_S, BUSY_MACHINE = 2.0, 5
MAX_BYTES = 300_000_000

# alone: it bounds the time of the processor, which other tests on the same cores lengthen
pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def found() -> list[Outcome]:
    """The result of each file in a fresh process, so that memory can be measured."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(outcomes, SEED, COUNT).result()


def test_nothing_but_our_own_errors_comes_of_a_malformed_file_and_none_runs(
    found: list[Outcome],
) -> None:
    assert [(each.name, each.crash) for each in found if each.crash] == []
    assert found
    assert not (Path(tempfile.gettempdir()) / CANARY).exists()


def test_each_malformed_file_is_refused_for_what_it_is_and_a_thousand_for_more_than_a_grid(
    found: list[Outcome],
) -> None:
    wrong = [(each.name, each.error, each.message) for each in found if not each.expected]
    assert wrong == []
    kinds = Counter(each.error for each in found)
    assert len(found) == COUNT
    assert COUNT - kinds[None] - kinds["NotOnNetworkGrid"] >= LEAST_REFUSED
    assert len(kinds) > 15


def test_none_takes_long_or_much_memory(found: list[Outcome]) -> None:
    slowest = max(found, key=lambda each: each.cpu_s)
    assert slowest.cpu_s < MAX_S, slowest
    # a file that made us wait would take no time of the processor
    assert max(each.wall_s for each in found) < BUSY_MACHINE * MAX_S
    largest = max(found, key=lambda each: each.peak_bytes)
    assert largest.peak_bytes < MAX_BYTES, largest
    # a measurement that sees nothing would pass too
    assert largest.peak_bytes > 50_000_000


def test_a_message_repeats_nothing_of_the_file(found: list[Outcome]) -> None:
    private = SECRET.decode(), CANARY, "scan.", tempfile.gettempdir(), "Traceback"
    told = [each for each in found if any(word in each.message for word in private)]
    assert told == []
    assert all(each.message.isprintable() and len(each.message) < 400 for each in found)


def test_the_same_seed_makes_the_same_files() -> None:
    first, second, other = ([*islice(damaged(seed), 100)] for seed in (1, 1, 2))
    assert first == second
    assert len({case.content for case in (*first, *other)}) > 190
