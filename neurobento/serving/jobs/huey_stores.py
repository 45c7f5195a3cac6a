"""Huey's stores, with what jobs need besides: SQLite's and Redis's."""

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
"""How long SQLite waits for another server's write."""

DELETE_IF = """
if redis.call('hget', KEYS[1], ARGV[1]) == ARGV[2] then
    return redis.call('hdel', KEYS[1], ARGV[1])
end
return 0"""


class SqliteStore(SqliteStorage):  # type: ignore[misc]
    """Huey's, with two operations more, and no transaction left open by a commit that failed."""

    _conn: sqlite3.Connection | None

    @contextlib.contextmanager
    def db(self, commit: bool = False, close: bool = False) -> Iterator[sqlite3.Cursor]:
        """A cursor, in a transaction of its own if something is to be committed.

        Huey's own leaves it open when there is no room at the commit: what was refused would then
        be seen by all that read through this connection, until the next write fails.
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
                # a claim that came second
                self.conn.rollback()
                raise
            except BaseException:
                self._let_go()
                raise
            if close:
                self._let_go()

    def _let_go(self) -> None:
        """Close the connection, which rolls back; the next use opens another."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def delete_if(self, key: str, value: bytes) -> None:
        """Remove what is there if it is this value, in one step."""
        query = "delete from kv where queue = ? and key = ? and value = ?"
        self.sql(query, (self.name, key, self.to_blob(value)), commit=True)

    def names(self) -> list[str]:
        """All keys, without what they stand for."""
        query = "select key from kv where queue = ?"
        return [key for (key,) in self.sql(query, (self.name,), results=True)]


class RedisStore(RedisStorage):  # type: ignore[misc]
    """Huey's, with two operations more."""

    def delete_if(self, key: str, value: bytes) -> None:
        """Remove what is there if it is this value, in one step."""
        self.conn.eval(DELETE_IF, 1, self.result_key, key, value)

    def names(self) -> list[str]:
        """All keys, without what they stand for."""
        return [key.decode() for key in self.conn.hkeys(self.result_key)]


Store = SqliteStore | RedisStore


class _Connection(sqlite3.Connection):
    """Cuts the write-ahead log, which else stays as long as it ever was."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.execute("pragma journal_size_limit = 0")


def make_sqlite_file(file: Path) -> None:
    """An empty database that gives room back when rows go; scans are for nobody else's eyes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    with contextlib.closing(sqlite3.connect(file, timeout=LOCK_WAIT_S)) as connection:
        # takes effect before the first table is made, and never after; the second writes it down
        connection.execute("pragma auto_vacuum = full")
        connection.execute("pragma user_version = 1")


def sqlite_store(name: str, file: Path) -> Store:
    """A store in the file, beside others."""
    # strict: without, the place of a row that went is given to the next, before those that wait
    return SqliteStore(
        name,
        filename=str(file),
        fsync=True,
        timeout=LOCK_WAIT_S,
        strict_fifo=True,
        factory=_Connection,
    )


def redis_store(name: str, url: str) -> Store:
    """A store in the server of a URL, beside others.

    Raises
    ------
    ConfigError
        The URL cannot be read.
    """
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
