"""Map a function over many items with Dask; a dead worker costs only its current item.

Dask counts a worker's death against every item assigned to it. Here only an item that had begun
counts, by a file: one that kills `ATTEMPTS` workers is given up. Finished values are kept in files,
so that they outlive their workers.
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

# How often an item may be begun
ATTEMPTS = 3

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class ItemResult(Generic[Value]):
    """The value of an item, or the NeuroBentoError that the function raised."""

    index: int
    value: Value | NeuroBentoError
    # Above 1 if a worker died with the item
    attempts: int


def require_dask() -> None:
    """Raise ConfigError unless the extra `cohort` is installed."""
    require_extra("cohort", "Dask", "dask.distributed", "tqdm")


@contextmanager
def open_cluster(workers: int, scheduler: str | None = None) -> Iterator[Any]:
    """Open a Dask client of new processes, or of a scheduler whose workers have one thread each."""
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
    """Make a hidden folder inside a folder and delete it, and those of killed runs, at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.glob(".run-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    scratch = folder.resolve() / f".run-{uuid.uuid4().hex}"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def map_on_cluster(
    client: Any, function: Callable[[Item], Value], items: Sequence[Item], folder: Path
) -> Iterator[ItemResult[Value]]:
    """Call a function on every item and yield each result as it arrives, in any order.

    Exceptions other than NeuroBentoError are bugs and raised here. Attempts and values go into the
    folder, which the workers must see too.
    """
    from dask.distributed import as_completed

    def submit(index: int) -> Any:
        # a new key each time: Dask would return the failed call of the old one
        key = f"item-{index}-{uuid.uuid4().hex}"
        path = folder / str(index)
        return client.submit(_call, function, items[index], path, pure=False, key=key)

    running = {submit(index): index for index in range(len(items))}
    completed = as_completed(list(running))
    for future in completed:
        index = running.pop(future)
        result = _result(future, index, folder / str(index))
        # a held value stays in a worker's memory, and is computed again if that worker dies
        future.release()
        if result is None:
            retry = submit(index)
            running[retry] = index
            completed.add(retry)
        else:
            yield result


def _call(
    function: Callable[[Item], Value], item: Item, path: Path
) -> tuple[Value | NeuroBentoError, int]:
    """Return the value and the number of attempts, a byte each at `path`; runs on a worker."""
    finished = path.with_suffix(".finished")
    if finished.exists():
        # the worker died after the call, before its value was sent
        return pickle.loads(finished.read_bytes())  # type: ignore[no-any-return]
    if _attempts(path) >= ATTEMPTS:
        return _worker_lost(), ATTEMPTS
    with path.open("ab") as file:
        file.write(b".")
    try:
        value: Value | NeuroBentoError = function(item)
    except NeuroBentoError as error:
        # raised, Dask would log it together with the item
        value = error
    value_and_attempts = value, _attempts(path)
    write_atomically(finished, pickle.dumps(value_and_attempts))
    return value_and_attempts


def _result(future: Any, index: int, path: Path) -> ItemResult[Any] | None:
    """Return the item's result, or None if it has to be submitted again."""
    from dask.distributed import KilledWorker

    try:
        value, attempts = future.result()
    except KilledWorker:
        attempts = _attempts(path)
        return ItemResult(index, _worker_lost(), attempts) if attempts >= ATTEMPTS else None
    return ItemResult(index, value, attempts)


def _attempts(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _worker_lost() -> WorkerLost:
    return WorkerLost(
        expected="a worker process that lives until the work is done",
        found=f"{ATTEMPTS} workers that died",
        remedy="Memory may be short: `neurobento parcellate` on this scan alone says more.",
    )
