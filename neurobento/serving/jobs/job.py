"""Entries of the database about a job: the job itself, its leases, and its end.

A client knows a job by its `id`; the database knows it by its `key`, which no other job ever has.
The key-value store holds:

    job:ID             the job was submitted
    lease:KEY:N        somebody has its N-th attempt
    end:KEY            the job has ended: the first to write it decides how; outlives job:ID
    upload:KEY         since when its scan is being copied in; removed once the job exists
    beat:OWNER         changes while the owner lives
    secret             hashes idempotency keys

and the file store holds `KEY/scan` and `KEY/result/N`.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal, TypeVar

from neurobento.serving.jobs.database import FileStore, KeyValueStore

__all__ = [
    "Attempt",
    "End",
    "Job",
    "Lease",
    "State",
    "from_json",
    "remove_files",
    "remove_leftovers",
    "result_file",
    "scan_file",
    "to_json",
]

State = Literal["waiting", "running", "done", "failed", "cancelled"]

Entry = TypeVar("Entry")


@dataclasses.dataclass(frozen=True)
class Job:
    id: str
    key: str
    """A later job may have the same id, but never the same key."""
    created: float
    """Seconds since 1970."""
    request: str
    """Hash of the scan and the options."""
    model: str
    preprocessing: str
    space: str


@dataclasses.dataclass(frozen=True)
class Lease:
    """The right to work on an attempt, held as long as its owner lives."""

    number: int
    """From 1; the attempt after a lost one has the next."""
    owner: str
    """See `neurobento.serving.jobs.owners`."""
    begun: float
    """Seconds since 1970."""
    returned: bool = False
    """The owner stopped before the job had ended, and gave the job back."""
    mark: str = ""
    """Unique: two threads of an owner may claim an attempt at the same moment."""


@dataclasses.dataclass(frozen=True)
class End:
    """The end of a job; there is one for each, and it never changes but for `tidy`."""

    state: State
    """One of the last three."""
    ended: float
    """Seconds since 1970."""
    number: int = 0
    """The attempt that ended the job; 0 if none did."""
    status: int = 0
    """HTTP status of the error, if the job failed; class and public message follow."""
    kind: str = ""
    message: str = ""
    tidy: bool = False
    """True once the scan, and the results of other attempts, are removed."""


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A job that this owner works on, and the number of the attempt."""

    job: Job
    number: int

    @property
    def lease_key(self) -> str:
        return f"lease:{self.job.key}:{self.number}"

    @property
    def result_file(self) -> str:
        return result_file(self.job.key, self.number)


STORED_NAMES = {"preprocessing": "level"}
"""Field -> its name in the database, where servers of another version read it too."""


def to_json(entry: Job | Lease | End) -> bytes:
    values = dataclasses.asdict(entry)
    return json.dumps(
        {STORED_NAMES.get(name, name): each for name, each in values.items()}
    ).encode()


def from_json(kind: type[Entry], packed: bytes) -> Entry:
    """Return an entry of a class; leave out fields that a newer version added."""
    values: dict[str, Any] = json.loads(packed)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    stored = {name: STORED_NAMES.get(name, name) for name in names}
    return kind(**{name: values[key] for name, key in stored.items() if key in values})


def scan_file(key: str) -> str:
    return f"{key}/scan"


def result_file(key: str, number: int) -> str:
    return f"{key}/result/{number}"


def remove_leftovers(
    values: KeyValueStore, files: FileStore, key: str, end: End, attempts: int
) -> None:
    """Remove the scan of an ended job, and the results that are not its own."""
    files.delete(scan_file(key))
    for number in range(1, attempts + 1):
        if end.state != "done" or number != end.number:
            files.delete(result_file(key, number))
    values.put(f"end:{key}", to_json(dataclasses.replace(end, tidy=True)))


def remove_files(files: FileStore, key: str, attempts: int) -> None:
    files.delete(scan_file(key))
    for number in range(1, attempts + 1):
        files.delete(result_file(key, number))
