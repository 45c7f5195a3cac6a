"""What the jobs' database says of a job: that it was taken in, who worked on it, how it ended.

In its records, for a job's `id` and its `key`, which no other job ever has:

    job:ID             taken in
    lease:KEY:N        its N-th turn is somebody's
    end:KEY            how it ended: the first to write it has ended it; outlives job:ID
    upload:KEY         since when a scan is being copied in; gone once the job is there
    beat:OWNER         changes while the owner lives
    secret             what idempotency keys are hashed with

and among the blobs `KEY/scan` and `KEY/result/N`.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal, TypeVar

from neurobento.serving.jobs.database import FileStore, KeyValueStore

__all__ = [
    "End",
    "Job",
    "Lease",
    "State",
    "from_json",
    "remove_files",
    "result_file_name",
    "scan_file_name",
    "tidy_up",
    "to_json",
]

State = Literal["waiting", "running", "done", "failed", "cancelled"]

Record = TypeVar("Record")


@dataclasses.dataclass(frozen=True)
class Job:
    """One that was taken in.

    Attributes
    ----------
    id
        What its client knows it by.
    key
        Names it in the database; a later job may have the same id, and has another key.
    created
        Seconds since 1970.
    request
        Hash of the scan and the options.
    model, preprocessing, space
        Of the parcellation.
    """

    id: str
    key: str
    created: float
    request: str
    model: str
    preprocessing: str
    space: str


@dataclasses.dataclass(frozen=True)
class Lease:
    """A turn at a job: only its owner works on it, for as long as that lives.

    Attributes
    ----------
    number
        From 1; the turn after a lost one has the next.
    owner
        See `neurobento.serving.jobs.owners`.
    begun
        Seconds since 1970.
    returned
        The owner stopped before the job had ended, and says so.
    mark
        Unlike any other's: two threads of an owner may reach for a turn at the same moment.
    """

    number: int
    owner: str
    begun: float
    returned: bool = False
    mark: str = ""


@dataclasses.dataclass(frozen=True)
class End:
    """How a job ended; there is one for each, and it never changes but for `tidy`.

    Attributes
    ----------
    state
        "done", "failed" or "cancelled".
    ended
        Seconds since 1970.
    number
        Of the turn that ended it; 0 if none did.
    status, kind, message
        Of the error it failed with: HTTP status, class, public words.
    tidy
        Whether the scan, and the results of other turns, are gone.
    """

    state: State
    ended: float
    number: int = 0
    status: int = 0
    kind: str = ""
    message: str = ""
    tidy: bool = False


def to_json(record: Job | Lease | End) -> bytes:
    """As JSON."""
    return json.dumps(dataclasses.asdict(record)).encode()


def from_json(kind: type[Record], packed: bytes) -> Record:
    """The record of a kind in JSON; what a newer version added is left out."""
    values: dict[str, Any] = json.loads(packed)
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in known})


def scan_file_name(key: str) -> str:
    """Of a job's scan among the blobs."""
    return f"{key}/scan"


def result_file_name(key: str, number: int) -> str:
    """Of what a turn at a job made."""
    return f"{key}/result/{number}"


def tidy_up(records: KeyValueStore, blobs: FileStore, key: str, end: End, turns: int) -> None:
    """Remove the scan of an ended job, and results that are not its own."""
    blobs.delete(scan_file_name(key))
    for number in range(1, turns + 1):
        if end.state != "done" or number != end.number:
            blobs.delete(result_file_name(key, number))
    records.put(f"end:{key}", to_json(dataclasses.replace(end, tidy=True)))


def remove_files(blobs: FileStore, key: str, turns: int) -> None:
    """Remove all that a job has among the blobs."""
    blobs.delete(scan_file_name(key))
    for number in range(1, turns + 1):
        blobs.delete(result_file_name(key, number))
