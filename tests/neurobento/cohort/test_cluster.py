"""A dead worker costs its current item alone; an item that kills its workers is given up."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from neurobento.cohort.cluster import (
    ATTEMPTS,
    ItemResult,
    map_on_cluster,
    open_cluster,
    require_dask,
    scratch_folder,
)
from neurobento.errors import ConfigError, EmptyScan, WorkerLost

Finish = Callable[..., dict[int, ItemResult[int]]]

LETHAL = 3
"""The item that kills the process that works on it."""


def count(item: int, folder: Path) -> int:
    """Return the item's square, and count the calls in a file."""
    with (folder / f"count-{item}").open("ab") as file:
        file.write(b".")
    return item * item


def square(item: int, folder: Path) -> int:
    time.sleep(0.02)
    return count(item, folder)


def kill_always(item: int, folder: Path) -> int:
    if item == LETHAL:
        os.kill(os.getpid(), signal.SIGKILL)
    return square(item, folder)


def kill_once(item: int, folder: Path) -> int:
    first = folder / "killed"
    if item == LETHAL and not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(item, folder)


def refuse(item: int, folder: Path) -> int:
    if item == LETHAL:
        raise EmptyScan(expected="a head", found="nothing", remedy="Look.", subject="a")
    return square(item, folder)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Two worker processes of a scheduler that gives an item up after one dead worker."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), open_cluster(2) as opened:
        yield opened


@pytest.fixture
def finish(client: Any, tmp_path: Path) -> Finish:
    """Map a function over twelve items and return the results by item."""

    def run(work: Callable[[int, Path], int], items: int = 12) -> dict[int, ItemResult[int]]:
        attempts = tmp_path / "attempts"
        attempts.mkdir()
        done = list(
            map_on_cluster(client, functools.partial(work, folder=tmp_path), range(items), attempts)
        )
        assert sorted(each.index for each in done) == list(range(items))
        return {each.index: each for each in done}

    return run


def times(folder: Path, item: int) -> int:
    return (folder / f"count-{item}").stat().st_size


def test_every_item_is_done_once(finish: Finish, tmp_path: Path) -> None:
    done = finish(square)
    assert {item: each.value for item, each in done.items()} == {n: n * n for n in range(12)}
    assert {each.attempts for each in done.values()} == {1}
    assert {times(tmp_path, item) for item in done} == {1}


def test_a_worker_that_dies_costs_its_running_item_alone(finish: Finish, tmp_path: Path) -> None:
    """Values that the worker finished before are not computed again."""
    done = finish(kill_once)
    assert {item: each.value for item, each in done.items()} == {n: n * n for n in range(12)}
    assert {n: each.attempts for n, each in done.items() if each.attempts > 1} == {LETHAL: 2}
    assert {times(tmp_path, item) for item in done} == {1}


def test_an_item_that_kills_its_workers_is_given_up_and_its_neighbours_are_not(
    finish: Finish, tmp_path: Path
) -> None:
    done = finish(kill_always)
    lost = done.pop(LETHAL)
    assert isinstance(lost.value, WorkerLost)
    assert f"found {ATTEMPTS} workers that died" in str(lost.value)
    assert lost.attempts == ATTEMPTS
    assert all(each.value == item * item for item, each in done.items())
    assert {times(tmp_path, item) for item in done} == {1}


def test_an_error_of_ours_comes_back_as_it_was_raised(finish: Finish) -> None:
    refused = finish(refuse)[LETHAL].value
    assert isinstance(refused, EmptyScan)
    assert refused.parts["subject"] == "a"


def test_scratch_folders_go_and_so_do_those_of_killed_runs(tmp_path: Path) -> None:
    left = tmp_path / "out" / ".run-1"
    left.mkdir(parents=True)
    with scratch_folder(tmp_path / "out") as scratch:
        assert scratch.is_absolute()
        assert list((tmp_path / "out").iterdir()) == [scratch]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("missing", ["dask.distributed", "tqdm"])
def test_without_the_extra_a_message_names_it(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=r"pip install 'neurobento\[cohort\]'"):
        require_dask()
