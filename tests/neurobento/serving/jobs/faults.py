"""Databases that fail on purpose, owners that never were, and what is left in a database."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Literal

from neurobento.errors import ServiceUnavailable
from neurobento.serving.jobs import Database
from neurobento.serving.jobs.owners import this_owner

Way = Literal["killed", "refused", "unanswered"]


class Killed(BaseException):
    """This process is no more: nothing that it would do afterwards happens."""


class Faulty:
    """A database whose n-th operation fails; `Database`, as far as a queue needs it.

    Parameters
    ----------
    url
        Where it is.
    at
        Counted from 0; None: none fails.
    way
        "killed": it was the last, and no later one is made; "refused": it was not made, and the
        next are; "unanswered": it was made, and nobody was told so.
    """

    def __init__(self, url: str, at: int | None, way: Way) -> None:
        self.at, self.way = at, way
        self.count = 0
        self.over = False
        self._behind = Database(url)
        self.values = _Store(self._behind.values, self)
        self.files = self._behind.files
        # each piece of a file is an operation
        self.files._values = _Store(self.files._values, self)

    def close(self) -> None:
        self._behind.close()

    def asked(self, operation: Callable[..., Any], *given: Any) -> Any:
        """What an operation answers, if it does."""
        if self.over:
            raise Killed
        mine, self.count = self.count, self.count + 1
        if mine != self.at:
            return operation(*given)
        if self.way == "refused":
            raise _unavailable()
        operation(*given)
        if self.way == "killed":
            self.over = True
            raise Killed
        raise _unavailable()


class _Store:
    """Records each of whose operations may be the one that fails."""

    def __init__(self, behind: Any, faulty: Faulty) -> None:
        self._behind, self._faulty = behind, faulty

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._behind, name)
        if name == "close":
            return operation
        return lambda *given: self._faulty.asked(operation, *given)


def _unavailable() -> ServiceUnavailable:
    return ServiceUnavailable(expected="a database", found="none", remedy="Wait.")


def dead_owner() -> str:
    """A process of this machine that is no more."""
    machine = this_owner().rsplit(" ", 2)[0]
    return f"{machine} 1 {uuid.uuid4().int % 10**9}"


def foreign_owner() -> str:
    """A process of another machine."""
    return f"elsewhere/{uuid.uuid4()}/pid:[1] 1 1"


def left_over(database: Database) -> dict[str, list[str]]:
    """Everything in a database but the secret and the beats: by kind of record, files, names."""
    found: dict[str, list[str]] = {}
    for name in sorted(database.values.items()):
        kind = name.partition(":")[0]
        if kind not in ("secret", "beat"):
            found.setdefault(kind, []).append(name)
    if parts := sorted(database.files.keys()):
        found["files"] = parts
    if names := database.values.queued_names():
        found["queue"] = names
    return found
