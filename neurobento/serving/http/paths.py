"""The service's paths: which exist, which are open to all, which need a slot."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from neurobento.serving.known_names import require_known_names

__all__ = [
    "KNOWN_PATHS",
    "MOUNTED",
    "PROBES",
    "UPLOADS",
    "is_known_path",
    "needs_slot",
    "path_with_other_slash",
    "require_known_query",
]

PROBES = frozenset({"/healthz", "/livez", "/readyz"})
"""Open to all, as an orchestrator has no token."""

UPLOADS = frozenset({"/predict/", "/v1/parcellation", "/v1/anomaly", "/v1/jobs"})
"""Take a scan or a slice as a form's file part."""

REPORT_QUERY = ("model", "preprocessing", "space")
"""Options of `/predict/`, the only path that takes them in its query."""

MOUNTED = "/v2"
"""The first part of every path of the Open Inference Protocol."""

KNOWN_PATHS = (
    PROBES | UPLOADS | {"/", "/v1/models", "/metrics", "/docs.json", "/schema.json", MOUNTED}
)

KNOWN_PATTERN = re.compile(
    r"/v1/jobs/[0-9a-f]{32}(/result)?"
    r"|/v2/health/(live|ready)"
    r"|/v2/models/[A-Za-z0-9_.-]{1,64}(/versions/[A-Za-z0-9_.-]{1,32})?(/ready|/infer)?"
)


def is_known_path(path: str) -> bool:
    """Return whether the service answers a path."""
    return path in KNOWN_PATHS or KNOWN_PATTERN.fullmatch(path) is not None


def needs_slot(path: str) -> bool:
    """Return whether a POST to the path is work, which needs a slot."""
    return path in UPLOADS or (path.startswith(f"{MOUNTED}/") and path.endswith("/infer"))


def path_with_other_slash(path: str) -> str | None:
    """Return the path that the client meant who put a `/` at its end, or forgot it, else None.

    It is relative to the one given, so that it leads there behind a proxy with a prefix too.
    """
    has_slash = path.endswith("/")
    meant = path.removesuffix("/") if has_slash else f"{path}/"
    if meant == "/" or not is_known_path(meant):
        return None
    last = meant.rstrip("/").rpartition("/")[2]
    return f"../{last}" if has_slash else f"{last}/"


def require_known_query(path: str, query: bytes) -> None:
    """Raise ConfigError for a parameter in the query of a request for work that is not known."""
    names = [name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)]
    known = REPORT_QUERY if path == "/predict/" else ()
    where = (
        'in the JSON\'s `parameters`, as {"parameters": {"preprocessing": "none"}}'
        if path.startswith(f"{MOUNTED}/")
        else "as form fields, as `curl -F file=@scan.nii.gz -F preprocessing=none` does"
    )
    elsewhere = "" if known else f"Send options {where}."
    require_known_names("query parameter", names, known, elsewhere)
