"""Read the environment variables of the core; `neurobento.serving.settings` reads the service's."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["child_environment", "client_token", "engines_folder"]


def client_token() -> str | None:
    """Return the token that a client sends to a service, NEUROBENTO_TOKEN, or None."""
    return os.environ.get("NEUROBENTO_TOKEN") or None


def engines_folder() -> Path:
    """Return the folder of TensorRT engines: NEUROBENTO_ENGINES, or one in the user's cache."""
    folder = os.environ.get("NEUROBENTO_ENGINES")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) if folder else Path(cache, "neurobento", "engines")


def child_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment with some variables replaced, for a child process."""
    return {**os.environ, **variables}
