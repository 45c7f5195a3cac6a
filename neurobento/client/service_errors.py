"""Turn the text of a service's error back into the exception that it was there."""

from __future__ import annotations

import re

from neurobento import errors as e

__all__ = ["error_from_message", "is_retry_after", "one_line"]

MESSAGE = re.compile(r"expected (?P<expected>.+?); found (?P<found>.+?)\. (?P<remedy>[A-Z`].*)")
"""Inverse of `NeuroBentoError.public_message`: the parts always compose to the same message."""

REMEDIES: dict[type[e.NeuroBentoError], str] = {
    e.ServiceBusy: "Try again later.",
    e.ServiceUnavailable: "Check that the service runs and that the address is its own.",
    e.DeadlineExceeded: "Allow more time, or ask when the service has less to do.",
    e.ClientGone: "Ask again.",
    e.NotAuthorised: "Give a token that the service knows.",
    e.RequestRefused: "Ask for something else; the same request will be refused again.",
}

MAX_CHARACTERS = 1000


def error_from_message(
    kind: type[e.NeuroBentoError],
    message: str,
    *,
    status: str,
    type_name: str = "",
    retry_after_s: float | None = None,
) -> e.NeuroBentoError:
    """Return the error that a service's message stands for; a foreign message is quoted."""
    # the class that the service names is closer than the one that its status stands for
    if type_name in e.__all__ and type_name != "NeuroBentoError":
        kind = getattr(e, type_name)
    message = one_line(message)
    cut = MESSAGE.fullmatch(message)
    if cut:
        parts = cut.groupdict()
    else:
        found = ": ".join(part for part in (status, message.rstrip(".")) if part)
        remedy = REMEDIES.get(kind, "The service's log says more.")
        parts = {"expected": "an answer", "found": found, "remedy": remedy}
    if issubclass(kind, e.ServiceError):
        return kind(**parts, retry_after_s=retry_after_s)
    return kind(**parts)


def is_retry_after(value: str) -> bool:
    """Return True for a Retry-After in seconds; the form with a date is not supported."""
    return re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value) is not None


def one_line(text: str) -> str:
    """Make foreign text fit for a terminal: no control characters, at most 1,000 characters."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_CHARACTERS]).strip()
