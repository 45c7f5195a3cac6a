"""Every environment variable of the service is read here, and nowhere else in `serving`."""

from __future__ import annotations

import difflib
import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path

from neurobento.cores import workers_for
from neurobento.errors import ConfigError
from neurobento.serving.request import RequestLimits

__all__ = [
    "RUN_VARIABLE",
    "SETTINGS",
    "Settings",
    "bentoml_home",
    "misspelt_variables",
    "read_token",
    "run_folder",
]

CORES = len(os.sched_getaffinity(0))

SERVER_BYTES = 3 << 30
"""Memory for the networks and for the labels of scans that have gone through them."""

RUN_VARIABLE = "NEUROBENTO_RUN"
"""Set by the server's first process, to give its folder to the processes it starts."""

SHORTEST_TOKEN = 16

RENAMED = {"BODY_BYTES": "MAX_BODY_BYTES", "PROCESSES": "PREPROCESSING_PROCESSES"}
"""Field of `Settings` -> its variable, where their names differ."""

OTHER_NAMES = ("PLACES", "TOKEN", "TOKEN_FILE", "ENGINES", "RUN")
"""Names of variables that no field of `Settings` reads."""

SIMILAR = 0.8
"""Share of characters in common above which a name is a misspelt one."""


def _number(name: str, default: float, least: float = 0) -> float:
    """Read a number of at least `least`; raise ConfigError for anything else."""
    given = os.environ.get(f"NEUROBENTO_{name}", default)
    try:
        number = float(given)
    except ValueError:
        number = float("nan")
    if not least <= number < math.inf:
        raise _bad_number(name, f"a number of at least {least:g}", given, default)
    return number


def _whole(name: str, default: int, least: int = 0) -> int:
    """Read a whole number; raise as `_number` does."""
    number = _number(name, default, least)
    if number != int(number):
        raise _bad_number(name, f"a whole number of at least {least}", number, default)
    return int(number)


def _bad_number(name: str, expected: str, found: object, default: float) -> ConfigError:
    return ConfigError(
        subject=f"NEUROBENTO_{name}",
        expected=expected,
        found=repr(found),
        remedy=f"Correct it, or unset it for the default of {default:g}.",
    )


def _text(name: str, default: str) -> str:
    return os.environ.get(f"NEUROBENTO_{name}", default)


def _names(name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in _text(name, "").split(",") if part.strip())


def _folder(name: str) -> Path | None:
    given = os.environ.get(f"NEUROBENTO_{name}")
    return Path(given) if given else None


def _slots() -> int:
    # the old name is read for one more release
    is_old = "NEUROBENTO_SLOTS" not in os.environ and "NEUROBENTO_PLACES" in os.environ
    return _whole("PLACES" if is_old else "SLOTS", 16, 1)


def _default_jobs() -> str:
    return f"sqlite:///{bentoml_home() / 'jobs.sqlite'}"


def bentoml_home() -> Path:
    """Return BENTOML_HOME, which each server has for itself."""
    home = Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml")
    return home.absolute()


@dataclass(frozen=True)
class Settings:
    """The service's settings, read from the environment when the object is made."""

    # NEUROBENTO_MODELS: folder of the models to serve; default models/.
    models: Path | None = field(default_factory=lambda: _folder("MODELS"))
    # NEUROBENTO_SERVED: names of the models to serve, separated by commas, or `all`; default all of
    # NEUROBENTO_MODELS, else the default models.
    served: tuple[str, ...] = field(default_factory=lambda: _names("SERVED"))
    # NEUROBENTO_BACKEND; default auto.
    backend: str = field(default_factory=lambda: _text("BACKEND", "auto"))
    # NEUROBENTO_DEVICE; default auto.
    device: str = field(default_factory=lambda: _text("DEVICE", "auto"))
    # NEUROBENTO_PRECISION; default auto.
    precision: str = field(default_factory=lambda: _text("PRECISION", "auto"))
    # NEUROBENTO_THREADS, of one scan's preprocessing and of one runner; default all cores.
    threads: int = field(default_factory=lambda: _whole("THREADS", CORES, 1))
    # NEUROBENTO_PREPROCESSING_PROCESSES: scans prepared in parallel; default cores / threads, or
    # what the memory holds of the largest scans.
    processes: int = field(default=0)
    # NEUROBENTO_SLOTS (old name NEUROBENTO_PLACES, for one release): requests in progress at the
    # same time, waiting or worked on; the next is refused with 429. Default 16.
    slots: int = field(default_factory=_slots)
    # NEUROBENTO_LONGEST_WAIT_S: a request that would wait longer is refused with 429; default 600.
    longest_wait_s: float = field(default_factory=lambda: _number("LONGEST_WAIT_S", 600))
    # NEUROBENTO_TIMEOUT_S: time limit of a request that does not ask for less; default 1800.
    timeout_s: float = field(default_factory=lambda: _number("TIMEOUT_S", 1800, 1))
    # NEUROBENTO_DRAIN_S: after SIGTERM, requests in progress may take this long; default 300.
    drain_s: float = field(default_factory=lambda: _number("DRAIN_S", 300))
    # NEUROBENTO_UPLOAD_S: time limit of a request's body; default 120.
    upload_s: float = field(default_factory=lambda: _number("UPLOAD_S", 120, 1))
    # NEUROBENTO_MAX_BODY_BYTES; default 512 MiB.
    body_bytes: int = field(default_factory=lambda: _whole("MAX_BODY_BYTES", 512 << 20, 1))
    # NEUROBENTO_GRPC_HOST; default 127.0.0.1.
    grpc_host: str = field(default_factory=lambda: _text("GRPC_HOST", "127.0.0.1"))
    # NEUROBENTO_GRPC_PORT; default 3001, 0 for no gRPC.
    grpc_port: int = field(default_factory=lambda: _whole("GRPC_PORT", 3001))
    # NEUROBENTO_JOBS: where jobs are kept, `sqlite:///PATH` (a fourth slash for an absolute path)
    # or `redis://HOST:PORT/NUMBER`; default jobs.sqlite in BENTOML_HOME.
    jobs: str = field(default_factory=lambda: _text("JOBS", _default_jobs()))
    # NEUROBENTO_JOBS_AT_ONCE: jobs this server works on in parallel; default `processes`; 0 to
    # accept jobs and work on none.
    jobs_at_once: int = field(default=0)
    # NEUROBENTO_JOBS_MOST: jobs that may wait; the next is refused with 429. Default 1000.
    jobs_most: int = field(default_factory=lambda: _whole("JOBS_MOST", 1000, 1))
    # NEUROBENTO_JOBS_KEEP_S: ended jobs and their results are kept this long; default 86400.
    jobs_keep_s: float = field(default_factory=lambda: _number("JOBS_KEEP_S", 86400, 1))
    # NEUROBENTO_MAX_BATCH: scans in one inference; default by memory and device, at most 8.
    max_batch: int = field(default_factory=lambda: _whole("MAX_BATCH", 0))
    # NEUROBENTO_OTLP_ENDPOINT: OpenTelemetry collector; default none, which means no traces.
    otlp_endpoint: str = field(default_factory=lambda: _text("OTLP_ENDPOINT", ""))

    def __post_init__(self) -> None:
        default = workers_for(self.threads, SERVER_BYTES)
        processes = _whole("PREPROCESSING_PROCESSES", default, 1)
        object.__setattr__(self, "processes", processes)
        object.__setattr__(self, "jobs_at_once", _whole("JOBS_AT_ONCE", processes))

    @property
    def limits(self) -> RequestLimits:
        """Limits of one request."""
        return RequestLimits(self.body_bytes, self.timeout_s, self.upload_s)

    @property
    def bento_timeout_s(self) -> int:
        """BentoML's timeout, longer than ours: it stops no work and answers in its own shape."""
        return int(self.timeout_s) + 60


SETTINGS = Settings()


def read_token() -> str | None:
    """Read the bearer token from NEUROBENTO_TOKEN_FILE, else from NEUROBENTO_TOKEN, else None."""
    # no field of `Settings`, whose repr would show it
    path = os.environ.get("NEUROBENTO_TOKEN_FILE")
    try:
        # an empty variable is a mistake, not a wish for no token
        given = os.environ.get("NEUROBENTO_TOKEN")
        token = given if path is None else Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_token(f"a file that cannot be read ({type(error).__name__})") from None
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise _bad_token(f"{len(token)} characters")
    return token


def _bad_token(found: str) -> ConfigError:
    return ConfigError(
        subject="NEUROBENTO_TOKEN",
        expected=f"a token of at least {SHORTEST_TOKEN} characters",
        found=found,
        remedy="Make one with `openssl rand -hex 32`.",
    )


def misspelt_variables() -> dict[str, str]:
    """Return the environment's variables that are almost a setting -> that setting.

    Only names close to a setting count: Kubernetes makes variables of every service's name too.
    """
    settings = [one.name.upper() for one in fields(Settings)]
    names = [*(RENAMED.get(name, name) for name in settings), *OTHER_NAMES]
    known = {f"NEUROBENTO_{name}" for name in names}
    found = {}
    for variable in os.environ:
        prefix, _, name = variable.partition("_")
        if prefix.upper() != "NEUROBENTO" or variable in known:
            continue
        if close := difflib.get_close_matches(name.upper(), names, 1, SIMILAR):
            found[variable] = f"NEUROBENTO_{close[0]}"
    return found


def run_folder() -> Path | None:
    """Return the folder of the server this process belongs to, None outside of a server."""
    given = os.environ.get(RUN_VARIABLE)
    return Path(given) if given else None
