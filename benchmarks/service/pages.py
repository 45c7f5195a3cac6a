"""Read the pages of a running service that say what it serves and counts."""

from __future__ import annotations

from typing import Any

from neurobento.errors import ConfigError

__all__ = ["read_page", "served_models"]

TIMEOUT_S = 30


def read_page(url: str, path: str) -> Any:
    """Return the response, or None if there is no such page; ConfigError if no service answers."""
    import httpx

    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
            response = client.get(path)
    except httpx.HTTPError as error:
        raise ConfigError(
            subject=url,
            expected="a running service",
            found=type(error).__name__,
            remedy="Start it with scripts/serve, or correct the URL.",
        ) from None
    return response if response.is_success else None


def served_models(url: str) -> dict[str, str]:
    """Return name -> SHA-256 of the models a service says it serves; empty if it says nothing."""
    page = read_page(url, "/v1/models")
    if page is None:
        return {}
    return {model["name"]: model["onnx_sha256"] for model in page.json()["models"]}
