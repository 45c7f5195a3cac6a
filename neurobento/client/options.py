"""Check the options that a client is given."""

from __future__ import annotations

from neurobento.errors import ConfigError

__all__ = ["require_option"]


def require_option(holds: bool, subject: str, expected: str, found: str) -> None:
    """Raise `ConfigError` unless a condition on an option holds."""
    if not holds:
        raise ConfigError(
            subject=subject, expected=expected, found=found, remedy="Give one like that."
        )
