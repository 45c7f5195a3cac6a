"""The bearer token that clients must send, where one is set."""

from __future__ import annotations

import hmac

from neurobento.errors import NotAuthorised

__all__ = ["Token"]


class Token:
    """Checks the header `Authorization: Bearer TOKEN`; without a token every request passes."""

    def __init__(self, token: str | None) -> None:
        self._expected = None if token is None else f"Bearer {token}".encode()

    def require(self, header: bytes) -> None:
        """Raise NotAuthorised unless the Authorization header holds the token; in constant time."""
        if self._expected is not None and not hmac.compare_digest(header, self._expected):
            raise NotAuthorised(
                expected="the service's token",
                found="another token" if header else "none",
                remedy="Send it as `Authorization: Bearer TOKEN`.",
            )
