"""Decide how long to wait for a busy or missing service, and when to give up."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from neurobento.errors import ConfigError, DeadlineExceeded, ServiceBusy, ServiceUnavailable

__all__ = ["Deadline", "Retries"]

Value = TypeVar("Value")

JITTER = 0.5
"""The random share of a wait, so that clients refused together come back apart."""

CLOCK_STEP_S = 0.001
"""Clocks and sockets are not finer: less time than this counts as none."""


@dataclass(frozen=True)
class Deadline:
    """The end of a whole call."""

    limit_s: float | None
    """The caller's limit; None: there is none."""
    ends_at_s: float
    """On the monotonic clock; infinite without a limit."""

    @classmethod
    def after(cls, limit_s: float | None) -> Deadline:
        """Return the deadline that is `limit_s` from now."""
        return cls(limit_s, math.inf if limit_s is None else time.monotonic() + limit_s)

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the deadline, never below 0; None without a limit."""
        return None if self.limit_s is None else max(0.0, self.ends_at_s - time.monotonic())

    @property
    def is_over(self) -> bool:
        """True if too little time remains to do anything with."""
        return self.remaining_s is not None and self.remaining_s < CLOCK_STEP_S

    def error(self) -> DeadlineExceeded:
        """Return the error to raise when the deadline is over."""
        return DeadlineExceeded(
            expected=f"an answer within {self.limit_s:g} s",
            found="none",
            remedy="Allow more time, or ask when the service has less to do.",
        )


@dataclass(frozen=True)
class Retries:
    """The number of times that a call to a busy or missing service is repeated, and the delays.

    Waits double from `first_wait_s`, less a random part. A wait that the service asks for is made
    up to a tenth longer; beyond `longest_wait_s` or the deadline, the call fails at once.
    """

    times: int = 6
    """Attempts after the first."""
    first_wait_s: float = 0.5
    longest_wait_s: float = 300.0

    def __post_init__(self) -> None:
        lowest = min(self.times, self.first_wait_s, self.longest_wait_s)
        if lowest < 0:
            raise ConfigError(
                subject="retries",
                expected="numbers from 0 on",
                found=f"{lowest:g}",
                remedy="`times=0` asks only once.",
            )

    def wait_s(self, failures: int, retry_after_s: float | None) -> float:
        """Return the seconds to wait after so many failures, at least what the service asked."""
        chance = random.random()
        if retry_after_s is not None:
            return retry_after_s * (1 + 0.1 * chance)
        # the exponent is bounded: a float has no 2**1024
        full = self.first_wait_s * 2.0 ** min(failures - 1, 64)
        return min(full, self.longest_wait_s) * (1 - JITTER * chance)

    def run(
        self,
        attempt: Callable[[], Value],
        deadline: Deadline,
        progress: Callable[[str, None], None],
    ) -> Value:
        """Return what `attempt` returns, repeated while the service is busy or unavailable."""
        failures = 0
        while True:
            if deadline.is_over:
                raise deadline.error()
            try:
                return attempt()
            except (ServiceBusy, ServiceUnavailable) as error:
                failures += 1
                wait_s = self.wait_s(failures, error.retry_after_s)
                too_long = (error.retry_after_s or 0) > self.longest_wait_s
                remaining_s = deadline.remaining_s
                no_time = remaining_s is not None and wait_s >= remaining_s
                if failures > self.times or too_long or no_time:
                    raise
                reason = "busy" if isinstance(error, ServiceBusy) else "unavailable"
            progress(f"waiting ({reason}, trying again in {math.ceil(wait_s)} s)", None)
            time.sleep(wait_s)
