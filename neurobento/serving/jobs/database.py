"""Store jobs by URL in SQLite or Redis: a key-value store with a queue, and a store of files."""

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

STORE_NAMES = ("neurobento", "neurobentofiles")
"""Values and files are apart, since all values are read at once and files never are."""

CHUNK_BYTES = 4 << 20
"""Bytes of a file in one value: held in memory at a time, and well below Redis's 512 MiB."""

REDIS_SCHEMES = ("redis", "rediss", "unix")


class KeyValueStore:
    """Small values by key, and a queue of names; ServiceUnavailable if it is down or full."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, key: str, value: bytes) -> None:
        with _translated_errors():
            self._store.put_data(key, value)

    def claim(self, key: str, value: bytes) -> bool:
        """Write a value unless the key has another; of many that claim a key, one gets True."""
        with _translated_errors():
            # huey repeats a write whose connection was lost: it may find its own value
            return self._store.put_if_empty(key, value) or self.get(key) == value

    def get(self, key: str) -> bytes | None:
        with _translated_errors():
            value = self._store.peek_data(key)
        return None if value is EmptyData else bytes(value)

    def delete(self, key: str) -> None:
        with _translated_errors():
            self._store.delete_data(key)

    def delete_if(self, key: str, value: bytes) -> None:
        """Delete a key if it still has this value."""
        with _translated_errors():
            self._store.delete_if(key, value)

    def items(self) -> dict[str, bytes]:
        with _translated_errors():
            return {key: bytes(value) for key, value in self._store.result_items().items()}

    def enqueue(self, name: str) -> None:
        with _translated_errors():
            self._store.enqueue(name.encode())

    def dequeue(self) -> str | None:
        """Take the first name out of the queue; nobody else gets it."""
        with _translated_errors():
            name = self._store.dequeue()
        return None if name is None else bytes(name).decode()

    def queued_names(self) -> list[str]:
        with _translated_errors():
            return [bytes(name).decode() for name in self._store.enqueued_items()]

    def close(self) -> None:
        self._store.close()


class FileStore:
    """Files of any length by name, in pieces; one exists once its name has its number of pieces."""

    def __init__(self, store: Store) -> None:
        self._values = KeyValueStore(store)
        self._store = store

    def write(self, name: str, source: BinaryIO) -> None:
        count = 0
        while chunk := source.read(CHUNK_BYTES):
            self._values.put(f"{name}/{count}", chunk)
            count += 1
        self._values.put(name, str(count).encode())

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the pieces of a file; raise JobNotFound if it does not exist or is deleted."""
        count = self._values.get(name)
        if count is None:
            raise _file_deleted()
        for number in range(int(count)):
            chunk = self._values.get(f"{name}/{number}")
            if chunk is None:
                raise _file_deleted()
            yield chunk

    def delete(self, name: str) -> None:
        """Delete a file, complete or not."""
        self._values.delete(name)
        count = 0
        with _translated_errors():
            while self._store.has_data_for_key(f"{name}/{count}"):
                count += 1
        # the last piece first: pieces that a kill leaves behind can be counted from the first
        for number in reversed(range(count)):
            self._values.delete(f"{name}/{number}")

    def keys(self) -> list[str]:
        """Return the keys of all files and of all their pieces."""
        with _translated_errors():
            return self._store.keys()

    def delete_key(self, key: str) -> None:
        self._values.delete(key)

    def close(self) -> None:
        self._values.close()


class Database:
    """Both stores at a URL, `sqlite:///PATH` or `redis://HOST:PORT/NUMBER` (`rediss://`, `unix://`)."""

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
            file = Path(rest[1:])
            with _translated_errors():
                make_sqlite_file(file)
                stores: list[Store] = [sqlite_store(name, file) for name in STORE_NAMES]
        elif scheme in REDIS_SCHEMES:
            stores = [redis_store(name, url) for name in STORE_NAMES]
        else:
            raise ConfigError(
                subject="NEUROBENTO_JOBS",
                expected="sqlite:///PATH or redis://HOST:PORT/NUMBER",
                # the rest of the URL may hold a password
                found=f"a URL that begins with {scheme[:12]!r}",
                remedy="Correct it, or unset it for a SQLite file in BENTOML_HOME.",
            )
        self.values, self.files = KeyValueStore(stores[0]), FileStore(stores[1])

    def close(self) -> None:
        self.values.close()
        self.files.close()


def _file_deleted() -> JobNotFound:
    return JobNotFound(
        expected="a job's files to exist as long as the job",
        found="a job that was deleted or has expired",
        remedy="Submit the scan again.",
    )


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, RedisError, OSError) as error:
        raise ServiceUnavailable(
            expected="the jobs database to answer",
            found=type(error).__name__,
            remedy="Try again in a few seconds; check the database and its disk.",
            retry_after_s=5.0,
        ) from None
