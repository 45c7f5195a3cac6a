"""Huey's SQLite and Redis stores, with the two operations that jobs need besides."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huey.storage import RedisStorage, SqliteStorage
from redis import ConnectionPool

from neurobento.errors import ConfigError

__all__ = ["Store", "make_sqlite_file", "redis_store", "sqlite_store"]

LOCK_WAIT_S = 30.0
"""Seconds that SQLite waits for another server's write."""

DELETE_IF = """
if redis.call('hget', KEYS[1], ARGV[1]) == ARGV[2] then
    return redis.call('hdel', KEYS[1], ARGV[1])
end
return 0"""


class SqliteStore(SqliteStorage):  # type: ignore[misc]
    """Huey's SQLite store; a failed commit leaves no transaction open."""

    _conn: sqlite3.Connection | None

    @contextlib.contextmanager
    def db(self, commit: bool = False, close: bool = False) -> Iterator[sqlite3.Cursor]:
        """Give a cursor; if the work is to be committed, in a transaction of its own.

        Huey's method leaves it open if the disk is full: then reads see the refused values.
        """
        with self.lock:
            try:
                cursor = self.conn.cursor()
                if commit:
                    cursor.execute(self.begin_sql)
                yield cursor
                if commit:
                    self.conn.commit()
            except sqlite3.IntegrityError:
                # another server claimed the key first
                self.conn.rollback()
                raise
            except BaseException:
                self._disconnect()
                raise
            if close:
                self._disconnect()

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def delete_if(self, key: str, value: bytes) -> None:
        query = "delete from kv where queue = ? and key = ? and value = ?"
        self.sql(query, (self.name, key, self.to_blob(value)), commit=True)

    def keys(self) -> list[str]:
        query = "select key from kv where queue = ?"
        return [key for (key,) in self.sql(query, (self.name,), results=True)]


class RedisStore(RedisStorage):  # type: ignore[misc]
    """Huey's Redis store."""

    def delete_if(self, key: str, value: bytes) -> None:
        self.conn.eval(DELETE_IF, 1, self.result_key, key, value)

    def keys(self) -> list[str]:
        return [key.decode() for key in self.conn.hkeys(self.result_key)]


Store = SqliteStore | RedisStore


class _Connection(sqlite3.Connection):
    """Truncate the write-ahead log, which would otherwise keep its largest size."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.execute("pragma journal_size_limit = 0")


def make_sqlite_file(file: Path) -> None:
    """Make an empty database that only its owner can read and that shrinks as rows are deleted."""
    file.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    with contextlib.closing(sqlite3.connect(file, timeout=LOCK_WAIT_S)) as connection:
        # only takes effect before the first table is made; the second pragma writes it to disk
        connection.execute("pragma auto_vacuum = full")
        connection.execute("pragma user_version = 1")


def sqlite_store(name: str, file: Path) -> Store:
    return SqliteStore(
        name,
        filename=str(file),
        fsync=True,
        timeout=LOCK_WAIT_S,
        # otherwise a new entry may take the row id of a deleted one and overtake the queue
        strict_fifo=True,
        factory=_Connection,
    )


def redis_store(name: str, url: str) -> Store:
    """Return one of the stores in a Redis server; raise ConfigError for a malformed URL."""
    try:
        pool = ConnectionPool.from_url(url, socket_timeout=30, socket_connect_timeout=5)
    except ValueError:
        raise ConfigError(
            subject="NEUROBENTO_JOBS",
            expected="redis://HOST:PORT/NUMBER",
            found="a URL that cannot be read",
            remedy="Correct it.",
        ) from None
    return RedisStore(name, blocking=False, connection_pool=pool)
