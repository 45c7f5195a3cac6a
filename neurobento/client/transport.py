"""Choose the protocol, HTTP or gRPC, that an address names."""

from __future__ import annotations

import re
from typing import Any, Protocol

from neurobento.client.answers import AnomalyAnswer, Answer
from neurobento.client.requests import AnomalyRequest, ParcellationRequest, TransferProgress
from neurobento.client.retries import Deadline
from neurobento.errors import ConfigError
from neurobento.extras import naming_extra

__all__ = ["Transport", "open_transport", "require_option"]

HOST = r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
URL = re.compile(rf"(?P<scheme>https?|grpcs?)://{HOST}(?P<port>:\d{{1,5}})?(?P<path>/[^?#\s]*)?")


class Transport(Protocol):
    """One protocol's way to a service. Each call is one attempt and raises our own errors."""

    def parcellate(
        self, request: ParcellationRequest, deadline: Deadline, progress: TransferProgress
    ) -> Answer:
        """Send a scan and return the parcellation."""

    def anomaly(
        self, request: AnomalyRequest, deadline: Deadline, progress: TransferProgress
    ) -> AnomalyAnswer:
        """Send a slice and return its anomaly score and pictures."""

    def models(self, deadline: Deadline) -> list[dict[str, Any]]:
        """Return the service's models."""

    def ready(self, deadline: Deadline) -> bool:
        """Return True if the service accepts requests now."""

    def close(self) -> None:
        """Close the connections."""


def open_transport(url: str, token: str | None) -> Transport:
    """Return the transport for an address, which is checked but not yet connected to."""
    parts = URL.fullmatch(url)
    # an address with a user name may hold a password
    shown = "a user name in the address" if "@" in url else repr(url[:200])
    require_option(parts is not None, "url", "http[s]://HOST[:PORT] or grpc[s]://HOST:PORT", shown)
    assert parts
    port = int((parts["port"] or ":0")[1:])
    require_option(port < 1 << 16, "url", "a port below 65536", f"{port}")
    if parts["scheme"].startswith("http"):
        with naming_extra("client", "client"):
            from neurobento.client.http import HttpTransport
        return HttpTransport(url.rstrip("/"), token)
    only_host_and_port = bool(parts["port"]) and parts["path"] in (None, "/")
    require_option(only_host_and_port, "url", f"{parts['scheme']}://HOST:PORT", shown)
    with naming_extra("grpc", "client"):
        from neurobento.client.grpc import GrpcTransport
    target = f"{parts['host']}{parts['port']}"
    return GrpcTransport(target, token, tls=parts["scheme"] == "grpcs")


def require_option(holds: bool, subject: str, expected: str, found: str) -> None:
    """Raise `ConfigError` unless a condition on an option of the client holds."""
    if not holds:
        remedy = "Give one like that."
        raise ConfigError(subject=subject, expected=expected, found=found, remedy=remedy)
