"""Who is taken for dead, and who is not."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from neurobento.serving.jobs.owners import Liveness, this_owner
from neurobento.serving.process.run_folder import process_start_time
from tests.neurobento.serving.fakes import Clock
from tests.neurobento.serving.jobs.faults import dead_owner, foreign_owner


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def owner_of(pid: int) -> str:
    return f"{this_owner().rsplit(' ', 2)[0]} {pid} {process_start_time(pid)}"


def test_this_process_lives_and_one_that_never_was_or_another_of_its_id_does_not(
    child: subprocess.Popen[bytes],
) -> None:
    assert Liveness().is_alive(this_owner(), None)
    assert not Liveness().is_alive(dead_owner(), b"1")
    machine, pid, start = owner_of(child.pid).rsplit(" ", 2)
    assert not Liveness().is_alive(f"{machine} {pid} {int(start) - 1}", None)


def test_a_process_of_this_machine_is_judged_at_once(child: subprocess.Popen[bytes]) -> None:
    owner, liveness = owner_of(child.pid), Liveness()
    assert liveness.is_alive(owner, None)
    os.kill(child.pid, signal.SIGSTOP)
    assert liveness.is_alive(owner, None), "a process that stands still may go on"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    # its parent has not asked for its end yet, as a container's first process may never do
    assert not liveness.is_alive(owner, None)
    child.wait()
    assert not liveness.is_alive(owner, None)


def test_another_machines_process_lives_while_its_beat_changes(clock: Clock) -> None:
    liveness, owner = Liveness(60), foreign_owner()
    for beat in range(100):
        assert liveness.is_alive(owner, str(beat).encode())
        clock.now += 20


@pytest.mark.parametrize("beat", [b"7", None])
def test_it_is_lost_when_its_beat_has_not_changed_for_long(
    clock: Clock, beat: bytes | None
) -> None:
    """One without any beat is given as long."""
    liveness, owner = Liveness(60), foreign_owner()
    assert liveness.is_alive(owner, beat)
    for _ in range(5):
        clock.now += 10
        assert liveness.is_alive(owner, beat)
    clock.now += 10
    assert not liveness.is_alive(owner, beat)
    assert liveness.is_alive(owner, b"8"), "it was only slow"


def test_a_time_without_looking_says_nothing_of_others(clock: Clock) -> None:
    """After a database was away for an hour all have an old beat, and all live."""
    liveness, owner = Liveness(60), foreign_owner()
    assert liveness.is_alive(owner, b"7")
    clock.now += 3600
    assert liveness.is_alive(owner, b"7")
    clock.now += 5
    assert liveness.is_alive(owner, b"8")


def test_who_is_forgotten_is_new_again(clock: Clock) -> None:
    liveness, owner = Liveness(60), foreign_owner()
    liveness.is_alive(owner, b"7")
    for _ in range(10):
        clock.now += 10
        liveness.is_alive(owner, b"7")
    assert not liveness.is_alive(owner, b"7")
    liveness.keep_only({owner})
    assert not liveness.is_alive(owner, b"7")
    liveness.keep_only(set())
    assert liveness.is_alive(owner, b"7")


def test_threads_may_look_and_forget_at_the_same_time() -> None:
    liveness = Liveness(60)
    others = [foreign_owner() for _ in range(200)]
    until = time.monotonic() + 0.5

    def look(number: int) -> None:
        while time.monotonic() < until:
            if number:
                assert all(liveness.is_alive(owner, None) for owner in others)
            else:
                liveness.keep_only(set(others[::2]))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(look, range(4)))
