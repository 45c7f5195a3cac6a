"""What the service listens to in its environment; each variable once."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from neurobento.errors import ConfigError
from neurobento.serving.http.gate import Limits

__all__ = ["SETTINGS", "Settings"]

CORES = len(os.sched_getaffinity(0))


def _number(name: str, default: float, least: float = 0) -> float:
    """A number from the environment.

    Raises
    ------
    ConfigError
        What is there is none, or too small.
    """
    given = os.environ.get(f"NEUROBENTO_{name}", default)
    try:
        number = float(given)
    except ValueError:
        number = float("nan")
    if not least <= number < math.inf:
        raise _bad(name, f"a number of at least {least:g}", given, default)
    return number


def _whole(name: str, default: int, least: int = 0) -> int:
    """A whole number from the environment; raises as `_number` does."""
    number = _number(name, default, least)
    if number != int(number):
        raise _bad(name, f"a whole number of at least {least}", number, default)
    return int(number)


def _bad(name: str, expected: str, found: object, default: float) -> ConfigError:
    return ConfigError(
        subject=f"NEUROBENTO_{name}",
        expected=expected,
        found=repr(found),
        remedy=f"Correct it, or unset it for the default of {default:g}.",
    )


def _text(name: str, default: str) -> str:
    return os.environ.get(f"NEUROBENTO_{name}", default)


def _jobs_here() -> str:
    """Beside what else BentoML keeps; each server has a BENTOML_HOME of its own."""
    home = Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml")
    return f"sqlite:///{home.absolute() / 'jobs.sqlite'}"


def _folder(name: str) -> Path | None:
    given = os.environ.get(f"NEUROBENTO_{name}")
    return Path(given) if given else None


@dataclass(frozen=True)
class Settings:
    """All of them, as the environment has them when the service is imported.

    Attributes
    ----------
    models
        NEUROBENTO_MODELS: folder of the models to serve; default models/.
    backend, device, precision
        NEUROBENTO_BACKEND, _DEVICE, _PRECISION; default auto.
    threads
        NEUROBENTO_THREADS, of a scan's preprocessing and of a runner; default all cores.
    processes
        NEUROBENTO_PREPROCESSING_PROCESSES: scans prepared at the same time; default cores /
        threads.
    places
        NEUROBENTO_PLACES: requests inside at the same time, waiting or worked on; the next is
        refused with 429. Default 16.
    longest_wait_s
        NEUROBENTO_LONGEST_WAIT_S: a request that would wait longer for its turn is refused with
        429; default 600.
    timeout_s
        NEUROBENTO_TIMEOUT_S, of a request that does not ask for less; default 1800.
    drain_s
        NEUROBENTO_DRAIN_S: after SIGTERM, how long requests under way may take; default 300.
    upload_s
        NEUROBENTO_UPLOAD_S: within which a request's body has to be there; default 120.
    body_bytes
        NEUROBENTO_MAX_BODY_BYTES; default 512 MiB.
    grpc_host, grpc_port
        NEUROBENTO_GRPC_HOST, default 127.0.0.1; NEUROBENTO_GRPC_PORT, default 3001, 0 for no gRPC.
    jobs
        NEUROBENTO_JOBS: where jobs are kept, `sqlite:///PATH` (a fourth slash for an absolute
        path) or `redis://HOST:PORT/NUMBER`; default jobs.sqlite in BENTOML_HOME.
    jobs_at_once
        NEUROBENTO_JOBS_AT_ONCE: jobs that this server works on at the same time; default as many
        as scans are prepared at the same time; 0: it takes jobs in and works on none.
    jobs_most
        NEUROBENTO_JOBS_MOST: jobs that wait; the next is refused with 429. Default 1000.
    jobs_keep_s
        NEUROBENTO_JOBS_KEEP_S: ended jobs and their results live so long; default 86400, a day.
    max_batch
        NEUROBENTO_MAX_BATCH: scans in one inference; default by memory and device, at most 8.
    """

    models: Path | None = field(default_factory=lambda: _folder("MODELS"))
    backend: str = field(default_factory=lambda: _text("BACKEND", "auto"))
    device: str = field(default_factory=lambda: _text("DEVICE", "auto"))
    precision: str = field(default_factory=lambda: _text("PRECISION", "auto"))
    threads: int = field(default_factory=lambda: _whole("THREADS", CORES, 1))
    processes: int = field(default=0)
    places: int = field(default_factory=lambda: _whole("PLACES", 16, 1))
    longest_wait_s: float = field(default_factory=lambda: _number("LONGEST_WAIT_S", 600))
    timeout_s: float = field(default_factory=lambda: _number("TIMEOUT_S", 1800, 1))
    drain_s: float = field(default_factory=lambda: _number("DRAIN_S", 300))
    upload_s: float = field(default_factory=lambda: _number("UPLOAD_S", 120, 1))
    body_bytes: int = field(default_factory=lambda: _whole("MAX_BODY_BYTES", 512 << 20, 1))
    grpc_host: str = field(default_factory=lambda: _text("GRPC_HOST", "127.0.0.1"))
    grpc_port: int = field(default_factory=lambda: _whole("GRPC_PORT", 3001))
    jobs: str = field(default_factory=lambda: _text("JOBS", _jobs_here()))
    jobs_at_once: int = field(default=0)
    jobs_most: int = field(default_factory=lambda: _whole("JOBS_MOST", 1000, 1))
    jobs_keep_s: float = field(default_factory=lambda: _number("JOBS_KEEP_S", 86400, 1))
    max_batch: int = field(default_factory=lambda: _whole("MAX_BATCH", 0))

    def __post_init__(self) -> None:
        default = max(1, CORES // self.threads)
        processes = _whole("PREPROCESSING_PROCESSES", default, 1)
        object.__setattr__(self, "processes", processes)
        object.__setattr__(self, "jobs_at_once", _whole("JOBS_AT_ONCE", processes))

    @property
    def limits(self) -> Limits:
        """What a request may be at most."""
        return Limits(self.body_bytes, self.timeout_s, self.upload_s)

    @property
    def bento_timeout_s(self) -> int:
        """BentoML's own, which stops nothing and answers in its own shape: never the first."""
        return int(self.timeout_s) + 60


SETTINGS = Settings()
