"""Both databases do the same, and what a job needs."""

from __future__ import annotations

import io
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from neurobento.errors import ConfigError, JobNotFound, ServiceUnavailable
from neurobento.serving.jobs import Database
from neurobento.serving.jobs import database as module

PIECE = 1 << 10


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", PIECE)


def file_content(database: Database, name: str) -> bytes:
    return b"".join(database.files.chunks(name))


def test_a_value_is_there_until_it_is_removed(database: Database) -> None:
    values = database.values
    assert values.get("a") is None
    values.put("a", b"1")
    values.put("a", b"2")
    assert values.get("a") == b"2"
    assert values.items() == {"a": b"2"}
    values.delete("a")
    values.delete("a")
    assert values.get("a") is None
    assert values.items() == {}


def test_a_claim_is_the_first_ones_and_only_what_is_still_there_is_removed(
    database: Database,
) -> None:
    values = database.values
    assert values.claim("a", b"mine")
    assert not values.claim("a", b"yours")
    assert values.get("a") == b"mine"
    # one that was tried again by a connection that had been lost
    assert values.claim("a", b"mine")
    values.delete_if("a", b"yours")
    assert values.get("a") == b"mine"
    values.delete_if("a", b"mine")
    assert values.get("a") is None
    values.delete_if("a", b"mine")


def test_of_many_that_claim_one_has_it(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(4)]
    start = threading.Barrier(8)

    def claim(number: int) -> bool:
        start.wait()
        return databases[number % 4].values.claim("a", str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(claim, range(8)))
    assert sum(won) == 1
    assert databases[0].values.get("a") == str(won.index(True)).encode()
    for database in databases:
        database.close()


def test_names_leave_the_queue_as_they_came(database: Database) -> None:
    values = database.values
    for name in ("a", "b", "c"):
        values.enqueue(name)
    assert values.queued_names() == ["a", "b", "c"]
    assert values.dequeue() == "a"
    values.enqueue("d")
    assert [values.dequeue() for _ in range(4)] == ["b", "c", "d", None]


def test_a_name_is_nobody_elses(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(4)]
    names = {str(number) for number in range(60)}
    for name in names:
        databases[0].values.enqueue(name)

    def take(database: Database) -> list[str | None]:
        return list(iter(database.values.dequeue, None))

    with ThreadPoolExecutor(4) as pool:
        taken = [name for got in pool.map(take, databases) for name in got]
    assert len(taken) == 60
    assert set(taken) == names
    for database in databases:
        database.close()


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE])
def test_files_come_back_as_they_were(database: Database, length: int) -> None:
    content = bytes(i % 251 for i in range(length))
    database.files.write("key/scan", io.BytesIO(content))
    assert file_content(database, "key/scan") == content
    database.files.delete("key/scan")
    assert database.files.keys() == []
    with pytest.raises(JobNotFound):
        file_content(database, "key/scan")


def test_pieces_are_of_four_mebibytes(database: Database) -> None:
    content = bytes(range(256)) * (9 << 12)
    database.files.write("key/scan", io.BytesIO(content))
    sizes = [len(piece) for piece in database.files.chunks("key/scan")]
    assert sizes == [4 << 20, 4 << 20, 1 << 20]
    assert file_content(database, "key/scan") == content


@pytest.mark.usefixtures("small_pieces")
def test_half_a_file_is_none_and_reading_one_that_is_deleted_is_an_error(
    database: Database,
) -> None:
    """One that is being written, or being removed, is not there; it is never cut short."""

    class Cut(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= 2 * PIECE:
                raise OSError("gone")
            return super().read(size)

    with pytest.raises(OSError, match="gone"):
        database.files.write("key/scan", Cut(bytes(5 * PIECE)))
    with pytest.raises(JobNotFound):
        file_content(database, "key/scan")
    assert len(database.files.keys()) == 2
    database.files.delete("key/scan")
    assert database.files.keys() == []
    database.files.write("key/scan", io.BytesIO(bytes(5 * PIECE)))
    pieces = database.files.chunks("key/scan")
    next(pieces)
    database.files.delete("key/scan")
    with pytest.raises(JobNotFound):
        list(pieces)


def test_what_is_written_is_there_for_others_and_later(database_url: str) -> None:
    first, second = Database(database_url), Database(database_url)
    first.values.put("a", b"1")
    assert second.values.get("a") == b"1"
    for each in (first, second):
        each.close()
    third = Database(database_url)
    assert third.values.get("a") == b"1"
    third.close()


def test_many_may_begin_at_the_same_time(database_url: str) -> None:
    """Processes, as SQLite's locks are the process's."""
    words = "import sys; from neurobento.serving.jobs import Database; d = Database(sys.argv[1])"
    words += "; d.values.put(sys.argv[2], b'1'); d.close()"
    children = [
        subprocess.Popen([sys.executable, "-c", words, database_url, str(n)]) for n in range(4)
    ]
    assert [child.wait(240) for child in children] == [0] * 4
    database = Database(database_url)
    assert set(database.values.items()) == {"0", "1", "2", "3"}
    database.close()


def test_a_database_is_private_and_shrinks(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    database = Database(f"sqlite:///{file}")
    database.files.write("key/scan", io.BytesIO(bytes(20 << 20)))
    for part in tmp_path.iterdir():
        assert stat.S_IMODE(part.stat().st_mode) == 0o600, part.name
    database.files.delete("key/scan")
    database.close()
    assert sum(part.stat().st_size for part in tmp_path.iterdir()) < 1 << 20


def test_a_database_that_is_locked_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurobento.serving.jobs.huey_stores.LOCK_WAIT_S", 0.2)
    file = tmp_path / "jobs.sqlite"
    database = Database(f"sqlite:///{file}")
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("begin exclusive")
    with pytest.raises(ServiceUnavailable) as caught:
        database.values.put("a", b"1")
    assert caught.value.retry_after_s
    threading.Timer(0.1, lambda: other.execute("rollback")).start()
    database.values.put("a", b"2")
    assert database.values.get("a") == b"2"
    other.close()
    database.close()


def test_what_a_full_database_refused_is_seen_by_nobody(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    storage: Any = database.values._store
    storage.conn.execute(f"pragma max_page_count = {_pages(storage) + 2}")
    with pytest.raises(ServiceUnavailable):
        database.values.claim("a", bytes(1 << 20))
    assert database.values.get("a") is None
    assert database.values.claim("a", b"1")
    database.close()


def test_a_commit_that_fails_leaves_nothing_open(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    storage: Any = database.values._store

    class Failing:
        def __init__(self, behind: Any) -> None:
            self.cursor, self.rollback, self.close = behind.cursor, behind.rollback, behind.close

        def commit(self) -> None:
            raise sqlite3.OperationalError("database or disk is full")

    storage._conn = Failing(storage.conn)
    with pytest.raises(ServiceUnavailable):
        database.values.put("a", b"1")
    assert database.values.get("a") is None
    database.values.put("a", b"2")
    assert database.values.get("a") == b"2"
    database.close()


def _pages(storage: Any) -> int:
    return int(storage.conn.execute("pragma page_count").fetchone()[0])


def test_a_redis_that_is_not_there_or_a_file_that_cannot_be_made_is_said_to_be_away(
    tmp_path: Path,
) -> None:
    database = Database("redis://127.0.0.1:1/0")
    with pytest.raises(ServiceUnavailable):
        database.values.get("a")
    database.close()
    (tmp_path / "file").touch()
    with pytest.raises(ServiceUnavailable):
        Database(f"sqlite:///{tmp_path}/file/jobs.sqlite")


def test_other_urls_are_refused_and_a_password_not_repeated() -> None:
    urls = ["", "jobs.sqlite", "sqlite://", "sqlite:///", "postgres://h/d", "redis://h:port/0"]
    for url in [*urls, "postgres://jane:secret@host/jobs"]:
        with pytest.raises(ConfigError) as caught:
            Database(url)
        assert caught.value.subject == "NEUROBENTO_JOBS"
        assert "secret" not in str(caught.value)
