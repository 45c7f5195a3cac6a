"""BentoML options that the services share."""

from __future__ import annotations

from typing import Any

from neurobento.serving.settings import SETTINGS
from neurobento.serving.telemetry.tracing import tracing_options

__all__ = ["DEPENDENCY_OPTIONS", "SERVICE_OPTIONS"]

SERVICE_OPTIONS: dict[str, Any] = {
    "workers": 1,
    "traffic": {"timeout": SETTINGS.bento_timeout_s},
    # BentoML's access log repeats what clients send; the service logs each request itself
    "logging": {"access": {"enabled": False}},
    **tracing_options(SETTINGS.otlp_endpoint),
}
"""For every service."""

DEPENDENCY_OPTIONS: dict[str, Any] = {
    **SERVICE_OPTIONS,
    # BentoML's default closes connections under requests in flight
    "runner_connection": {"max_requests": 10**9, "max_age": 1e9},
}
"""For the services that the front depends on."""
