"""Work on many items through Dask, which the death of a worker process does not lose.

An item whose worker died is begun again by another. Dask counts a worker's
death against every item that stood in line at that worker; here each item
leaves a mark when it truly begins, and only what it began counts against it.
So an item that kills its workers is given up after `ATTEMPTS`, whatever the
scheduler's own `allowed-failures` is, and its neighbours are not. What an item
gave is kept in a file until the run ends: a worker's death costs only what it
was working on.
"""

from __future__ import annotations

import pickle
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from neurobento.errors import NeuroBentoError, WorkerLost
from neurobento.extras import require_extra
from neurobento.files import write_atomically

__all__ = [
    "ATTEMPTS",
    "ItemResult",
    "map_on_cluster",
    "open_cluster",
    "require_dask",
    "scratch_folder",
]

ATTEMPTS = 3
"""How often an item may be begun."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ItemResult(Generic[Result]):
    """An item that is through.

    Attributes
    ----------
    index
        Its place among the items.
    result
        What the work gave, or the error of ours that it raised.
    attempts
        How often it was begun; above 1 where a worker died with it.
    """

    index: int
    result: Result | NeuroBentoError
    attempts: int


def require_dask() -> None:
    """Raise `ConfigError` unless the extra `cohort` is installed."""
    require_extra("cohort", "cluster", "dask.distributed", "tqdm")


@contextmanager
def open_cluster(workers: int, scheduler: str | None = None) -> Iterator[Any]:
    """A client of Dask's: of an existing scheduler, or of processes here that end with it.

    Parameters
    ----------
    workers
        Processes on this machine, which share its memory evenly; ignored with a
        scheduler.
    scheduler
        Address of an existing one, such as "tcp://HOST:8786". Its workers need
        this package, the same paths and one thread each (`--nthreads 1`).
    """
    from dask.distributed import Client, LocalCluster

    cluster = scheduler or LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=1 / workers,
        dashboard_address="127.0.0.1:0",
    )
    try:
        with Client(cluster) as client:
            yield client
    finally:
        if not isinstance(cluster, str):
            cluster.close()


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder in a folder, for one run; those of runs that were killed go as well.

    Two runs that write to one folder at the same time are not provided for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".run-*"):
        shutil.rmtree(left, ignore_errors=True)
    scratch = folder.resolve() / f".run-{uuid.uuid4().hex}"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def map_on_cluster(
    client: Any, work: Callable[[Item], Result], items: Sequence[Item], marks: Path
) -> Iterator[ItemResult[Result]]:
    """Every item once, as it gets done.

    Parameters
    ----------
    client
        Of `open_cluster`.
    work
        What to do with an item; it and what it gives can be pickled. An exception
        that is not ours is a fault of the program, and raised here.
    items
        What to work on.
    marks
        A folder that this process and the workers see, for the marks.
    """
    from dask.distributed import as_completed

    def submit(index: int) -> Any:
        mark = marks / str(index)
        return client.submit(_begin, work, items[index], mark, pure=False, key=_key(index))

    running = {submit(index): index for index in range(len(items))}
    queue = as_completed(list(running))
    for job in queue:
        index = running.pop(job)
        done = _outcome(job, index, marks)
        # a result that is held lies in a worker's memory, and is made again if that one dies
        job.release()
        if done is None:
            again = submit(index)
            running[again] = index
            queue.add(again)
        else:
            yield done


def _key(index: int) -> str:
    """A new name for each submission, which says nothing of the item."""
    return f"item-{index}-{uuid.uuid4().hex}"


def _begin(
    work: Callable[[Item], Result], item: Item, mark: Path
) -> tuple[Result | NeuroBentoError, int]:
    """What the work gave, and how often it was begun; runs on a worker."""
    finished = mark.with_suffix(".finished")
    if finished.exists():
        # its worker died between the end of the work and the result's way home
        return pickle.loads(finished.read_bytes())  # type: ignore[no-any-return]
    if _attempts(mark) >= ATTEMPTS:
        return _lost(), ATTEMPTS
    with mark.open("ab") as file:
        file.write(b".")
    try:
        result: Result | NeuroBentoError = work(item)
    except NeuroBentoError as error:
        # Dask would log what it raised together with the item
        result = error
    done = result, _attempts(mark)
    write_atomically(finished, pickle.dumps(done))
    return done


def _outcome(job: Any, index: int, marks: Path) -> ItemResult[Any] | None:
    """The item's end, or None where it has to be submitted again."""
    from dask.distributed import KilledWorker

    try:
        result, attempts = job.result()
    except KilledWorker:
        attempts = _attempts(marks / str(index))
        return ItemResult(index, _lost(), attempts) if attempts >= ATTEMPTS else None
    return ItemResult(index, result, attempts)


def _attempts(mark: Path) -> int:
    return mark.stat().st_size if mark.exists() else 0


def _lost() -> WorkerLost:
    return WorkerLost(
        expected="a worker process that lives until the work is done",
        found=f"{ATTEMPTS} that died",
        remedy="Look for a lack of memory: `neurobento parcellate` on this scan alone tells more.",
    )
