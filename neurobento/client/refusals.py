"""A service's refusal turned back into the error it stands for."""

from __future__ import annotations

import re

from neurobento import errors as e

__all__ = ["error_of", "is_retry_after", "one_line"]

MESSAGE = re.compile(r"expected (?P<expected>.+?); found (?P<found>.+?)\. (?P<remedy>[A-Z`].*)")
"""A message as `NeuroBentoError.public_message` composes it. Wherever the cuts fall, the parts
that were cut compose to the same message again."""

REMEDIES: dict[type[e.NeuroBentoError], str] = {
    e.ServiceBusy: "Try again later.",
    e.ServiceUnavailable: "Check that the service runs and that the address is its own.",
    e.DeadlineExceeded: "Allow more time, or ask when the service has less to do.",
    e.ClientGone: "Ask again.",
    e.NotAuthorised: "Give a token that the service knows.",
    e.RequestRefused: "Ask for something else; the same request will be refused again.",
}

MAX_CHARACTERS = 1000


def error_of(
    kind: type[e.NeuroBentoError],
    words: str,
    *,
    answered: str,
    type_name: str = "",
    retry_after_s: float | None = None,
) -> e.NeuroBentoError:
    """The error that a service's words stand for, its message kept.

    Parameters
    ----------
    kind
        What the status says.
    words
        The service's message. One of ours is taken apart, so that the error
        says exactly that; any other is quoted as what was found.
    answered
        The status, for a message that is quoted.
    type_name
        The class that the service names; one of ours is what is returned.
    retry_after_s
        When to ask again, where the service says so.
    """
    if type_name in e.__all__ and type_name != "NeuroBentoError":
        kind = getattr(e, type_name)
    words = one_line(words)
    cut = MESSAGE.fullmatch(words)
    if cut:
        parts = cut.groupdict()
    else:
        found = ": ".join(part for part in (answered, words.rstrip(".")) if part)
        remedy = REMEDIES.get(kind, "The service's log says more.")
        parts = {"expected": "an answer", "found": found, "remedy": remedy}
    if issubclass(kind, e.ServiceError):
        return kind(**parts, retry_after_s=retry_after_s)
    return kind(**parts)


def is_retry_after(value: str) -> bool:
    """Whether a Retry-After is in seconds; a date, which HTTP also has, is not read."""
    return re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value) is not None


def one_line(words: str) -> str:
    """Words from elsewhere, fit for a terminal: no control characters, and not too many."""
    return "".join(c if c.isprintable() else " " for c in words[:MAX_CHARACTERS]).strip()
