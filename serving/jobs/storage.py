"""The jobs' database: huey's queue and key-value store, in SQLite or Redis by URL."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from huey.constants import EmptyData
from huey.storage import BaseStorage, RedisStorage, SqliteStorage
from redis import ConnectionPool, RedisError

from neurobento.errors import ConfigError, ServiceUnavailable

__all__ = ["Blobs", "Database", "Records"]

RECORDS, BLOBS = "neurobento", "neurobentofiles"
"""Names of the two stores: records are read all at once, blobs never are."""

CHUNK_BYTES = 4 << 20
"""Of a file in one value: what is in memory at a time, and well below Redis's 512 MiB."""

LOCK_WAIT_S = 30.0
"""How long SQLite waits for another server's write."""

REDIS_SCHEMES = ("redis", "rediss", "unix")


class Records:
    """Small values by key, and a queue of keys.

    All methods raise `ServiceUnavailable` when the database cannot be reached or has no room.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def put(self, key: str, value: bytes) -> None:
        """Write, whatever was there."""
        with _reachable():
            self._storage.put_data(key, value)

    def claim(self, key: str, value: bytes) -> bool:
        """Write if nothing is there; whether what is there is this value.

        One of many that claim a key with values of their own has it, for as long as it is there.
        """
        with _reachable():
            # a connection lost in between is tried again, and finds its own value
            return self._storage.put_if_empty(key, value) or self.get(key) == value

    def get(self, key: str) -> bytes | None:
        """What is there, if anything."""
        with _reachable():
            value = self._storage.peek_data(key)
        return None if value is EmptyData else bytes(value)

    def delete(self, key: str) -> None:
        """Remove what is there, if anything."""
        with _reachable():
            self._storage.delete_data(key)

    def items(self) -> dict[str, bytes]:
        """Everything."""
        with _reachable():
            return {key: bytes(value) for key, value in self._storage.result_items().items()}

    def enqueue(self, name: str) -> None:
        """Put a name at the end of the queue."""
        with _reachable():
            self._storage.enqueue(name.encode())

    def dequeue(self) -> str | None:
        """Take the first name out of the queue; nobody else gets it."""
        with _reachable():
            name = self._storage.dequeue()
        return None if name is None else bytes(name).decode()

    def queued(self) -> list[str]:
        """The names in the queue, the first first."""
        with _reachable():
            return [bytes(name).decode() for name in self._storage.enqueued_items()]

    def close(self) -> None:
        """Let go of the connection."""
        self._storage.close()


class Blobs:
    """Files of any length by name, in pieces; raises as `Records` does."""

    def __init__(self, storage: BaseStorage) -> None:
        self._records = Records(storage)
        self._storage = storage

    def write(self, name: str, source: BinaryIO) -> None:
        """Copy what is left of an open file into the database."""
        for number, chunk in enumerate(iter(lambda: source.read(CHUNK_BYTES), b"")):
            self._records.put(f"{name}/{number}", chunk)

    def read(self, name: str, file: Path) -> None:
        """Copy it out into a file, empty if there is none."""
        with file.open("wb") as target:
            for chunk in self.chunks(name):
                target.write(chunk)

    def chunks(self, name: str) -> Iterator[bytes]:
        """Its pieces, one after the other."""
        number = 0
        while (chunk := self._records.get(f"{name}/{number}")) is not None:
            yield chunk
            number += 1

    def delete(self, name: str) -> None:
        """Remove it, the last piece first: what a kill leaves is found again from the first."""
        count = 0
        with _reachable():
            while self._storage.has_data_for_key(f"{name}/{count}"):
                count += 1
        for number in reversed(range(count)):
            self._records.delete(f"{name}/{number}")

    def close(self) -> None:
        """Let go of the connection."""
        self._records.close()


class Database:
    """Both stores.

    Parameters
    ----------
    url
        `sqlite:///PATH`, with a fourth slash for an absolute path, or `redis://HOST:PORT/NUMBER`
        (also `rediss://`, `unix://`).

    Raises
    ------
    ConfigError
        Another URL.
    ServiceUnavailable
        It cannot be reached.
    """

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
            file = Path(rest[1:])
            with _reachable():
                _make_file(file)
                stores = [_sqlite(name, file) for name in (RECORDS, BLOBS)]
        elif scheme in REDIS_SCHEMES:
            stores = [_redis(name, url) for name in (RECORDS, BLOBS)]
        else:
            raise ConfigError(
                subject="NEUROBENTO_JOBS",
                # a URL may hold a password
                expected="sqlite:///PATH or redis://HOST:PORT/NUMBER",
                found=f"a URL that begins with {scheme[:12]!r}",
                remedy="Correct it, or unset it for a SQLite file in BENTOML_HOME.",
            )
        self.records, self.blobs = Records(stores[0]), Blobs(stores[1])

    def close(self) -> None:
        """Let go of the connections."""
        self.records.close()
        self.blobs.close()


class _Connection(sqlite3.Connection):
    """Cuts the write-ahead log, which else stays as long as it ever was."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.execute("pragma journal_size_limit = 0")


def _make_file(file: Path) -> None:
    """An empty database that gives room back when rows go; scans are for nobody else's eyes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    with contextlib.closing(sqlite3.connect(file, timeout=LOCK_WAIT_S)) as connection:
        # takes effect before the first table is made, and never after; the second writes it down
        connection.execute("pragma auto_vacuum = full")
        connection.execute("pragma user_version = 1")


def _sqlite(name: str, file: Path) -> BaseStorage:
    # strict: without, the place of a row that went is given to the next, before those that wait
    return SqliteStorage(
        name,
        filename=str(file),
        fsync=True,
        timeout=LOCK_WAIT_S,
        strict_fifo=True,
        factory=_Connection,
    )


def _redis(name: str, url: str) -> BaseStorage:
    try:
        pool = ConnectionPool.from_url(url, socket_timeout=30, socket_connect_timeout=5)
    except ValueError:
        raise ConfigError(
            subject="NEUROBENTO_JOBS",
            expected="redis://HOST:PORT/NUMBER",
            found="a URL that cannot be read",
            remedy="Correct it.",
        ) from None
    return RedisStorage(name, blocking=False, connection_pool=pool)


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, RedisError, OSError) as error:
        raise ServiceUnavailable(
            expected="the jobs database to take and give what it is asked for",
            found=type(error).__name__,
            remedy="Try again in a few seconds; see to the database, and to its room.",
            retry_after_s=5.0,
        ) from None
