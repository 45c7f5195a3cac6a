"""Refuse options that the service does not know: a misspelt one would have no effect."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence

from neurobento.errors import ConfigError

__all__ = ["quote_briefly", "require_known_names"]

QUOTED_CHARACTERS = 32


def require_known_names(
    what: str, given: Iterable[str], known: Sequence[str], elsewhere: str = ""
) -> None:
    """Raise ConfigError if a name is unknown or given twice.

    `what` names the kind, as "form field"; `elsewhere` says where options go if not here.
    """
    counts = Counter(list(given))
    unknown = [name for name in counts if name not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        meant = f"Did you mean `{close[0]}`?" if close else ""
        raise ConfigError(
            subject=what,
            expected=f"no {what} but {_enumerate(known)}" if known else f"no {what}",
            found=", ".join(map(quote_briefly, unknown[:3])),
            remedy=meant or elsewhere or "Leave it out.",
        )
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise ConfigError(
            subject=what,
            expected=f"each {what} once",
            found=f"{quote_briefly(repeated[0])} {counts[repeated[0]]} times",
            remedy="Send it once.",
        )


def quote_briefly(text: str) -> str:
    """Return a client's text in quotes, or its length if it is long: it may name a patient."""
    return repr(text) if len(text) <= QUOTED_CHARACTERS else f"{len(text)} other characters"


def _enumerate(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
