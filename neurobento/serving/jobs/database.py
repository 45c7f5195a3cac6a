"""The jobs' database: huey's queue and key-value store, in SQLite or Redis by URL."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from huey.constants import EmptyData
from redis import RedisError

from neurobento.errors import ConfigError, JobNotFound, ServiceUnavailable
from neurobento.serving.jobs.huey_stores import Store, make_sqlite_file, redis_store, sqlite_store

__all__ = ["Database", "FileStore", "KeyValueStore"]

RECORDS, BLOBS = "neurobento", "neurobentofiles"
"""Names of the two stores: records are read all at once, blobs never are."""

CHUNK_BYTES = 4 << 20
"""Of a file in one value: what is in memory at a time, and well below Redis's 512 MiB."""

REDIS_SCHEMES = ("redis", "rediss", "unix")


class KeyValueStore:
    """Small values by key, and a queue of keys.

    All methods raise `ServiceUnavailable` when the database cannot be reached or has no room.
    """

    def __init__(self, storage: Store) -> None:
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

    def delete_if(self, key: str, value: bytes) -> None:
        """Remove what is there if it is this value: somebody else may have written another."""
        with _reachable():
            self._storage.delete_if(key, value)

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


class FileStore:
    """Files of any length by name, in pieces; raises as `KeyValueStore` does.

    A file is there once it is whole: then its name stands for the number of its pieces.
    """

    def __init__(self, storage: Store) -> None:
        self._records = KeyValueStore(storage)
        self._storage = storage

    def write(self, name: str, source: BinaryIO) -> None:
        """Copy what is left of an open file into the database."""
        count = 0
        while chunk := source.read(CHUNK_BYTES):
            self._records.put(f"{name}/{count}", chunk)
            count += 1
        self._records.put(name, str(count).encode())

    def chunks(self, name: str) -> Iterator[bytes]:
        """Its pieces, one after the other.

        Raises
        ------
        JobNotFound
            It is not there, or went while it was read.
        """
        count = self._records.get(name)
        if count is None:
            raise _gone()
        for number in range(int(count)):
            chunk = self._records.get(f"{name}/{number}")
            if chunk is None:
                raise _gone()
            yield chunk

    def delete(self, name: str) -> None:
        """Remove it, or what there is of it."""
        self._records.delete(name)
        count = 0
        with _reachable():
            while self._storage.has_data_for_key(f"{name}/{count}"):
                count += 1
        # the last first: what a kill leaves is found again from the first
        for number in reversed(range(count)):
            self._records.delete(f"{name}/{number}")

    def parts(self) -> list[str]:
        """The names of all files and pieces; `delete_part` takes them."""
        with _reachable():
            return self._storage.names()

    def delete_part(self, name: str) -> None:
        """Remove one of them."""
        self._records.delete(name)

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
        SQLite's file cannot be used. Redis is reached for when it is first asked.
    """

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
            file = Path(rest[1:])
            with _reachable():
                make_sqlite_file(file)
                stores: list[Store] = [sqlite_store(name, file) for name in (RECORDS, BLOBS)]
        elif scheme in REDIS_SCHEMES:
            stores = [redis_store(name, url) for name in (RECORDS, BLOBS)]
        else:
            raise ConfigError(
                subject="NEUROBENTO_JOBS",
                # a URL may hold a password
                expected="sqlite:///PATH or redis://HOST:PORT/NUMBER",
                found=f"a URL that begins with {scheme[:12]!r}",
                remedy="Correct it, or unset it for a SQLite file in BENTOML_HOME.",
            )
        self.records, self.blobs = KeyValueStore(stores[0]), FileStore(stores[1])

    def close(self) -> None:
        """Let go of the connections."""
        self.records.close()
        self.blobs.close()


def _gone() -> JobNotFound:
    return JobNotFound(
        expected="a job's files for as long as there is the job",
        found="that they are gone: it was deleted, or its time was over",
        remedy="Submit the scan again.",
    )


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
