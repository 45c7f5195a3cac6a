"""The service's paths: which exist, which are open to all, which need a slot."""

from __future__ import annotations

import re

__all__ = ["KNOWN_PATHS", "MOUNTED", "PROBES", "UPLOADS", "is_known_path", "needs_slot"]

PROBES = frozenset({"/healthz", "/livez", "/readyz"})
"""Open to all, as an orchestrator has no token."""

UPLOADS = frozenset({"/predict/", "/v1/parcellation", "/v1/anomaly", "/v1/jobs"})
"""Take a scan or a slice as a form's file part."""

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
