"""The bearer token that a client has to show, where one is set."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from neurobento.errors import ConfigError, NotAuthorised

__all__ = ["Token"]

SHORTEST = 16


class Token:
    """Lets everybody through without a token, or only those that show it.

    Parameters
    ----------
    token
        What clients send as `Authorization: Bearer TOKEN`.
    """

    def __init__(self, token: str | None) -> None:
        self._expected = None if token is None else f"Bearer {token}".encode()

    @classmethod
    def of_environment(cls) -> Token:
        """From the file NEUROBENTO_TOKEN_FILE, or NEUROBENTO_TOKEN; none if neither is set.

        Raises
        ------
        ConfigError
            The file cannot be read, or the token could be guessed.
        """
        path = os.environ.get("NEUROBENTO_TOKEN_FILE")
        try:
            given = os.environ.get("NEUROBENTO_TOKEN")
            # a variable that is set to nothing is a mistake, and not a wish for no token
            token = given if path is None else Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise _bad(f"it cannot be read ({type(error).__name__})") from None
        if token is not None and len(token) < SHORTEST:
            raise _bad(f"{len(token)} characters")
        return cls(token)

    def require(self, shown: bytes) -> None:
        """Let through, in the same time whatever is shown.

        Parameters
        ----------
        shown
            The request's Authorization header.

        Raises
        ------
        NotAuthorised
            Another one was shown, or none.
        """
        if self._expected is not None and not hmac.compare_digest(shown, self._expected):
            raise NotAuthorised(
                expected="the service's token",
                found="another one" if shown else "none",
                remedy="Send it as `Authorization: Bearer TOKEN`.",
            )


def _bad(found: str) -> ConfigError:
    return ConfigError(
        subject="NEUROBENTO_TOKEN",
        expected=f"a token of at least {SHORTEST} characters",
        found=found,
        remedy="Make one with `openssl rand -hex 32`.",
    )
