"""How long to wait for a service that is busy or not there, and when to give up."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from neurobento.errors import ConfigError, DeadlineExceeded, ServiceBusy, ServiceUnavailable

__all__ = ["Deadline", "Retries"]

Result = TypeVar("Result")

JITTER = 0.5
"""The share of a wait that chance decides, so that clients refused together come back apart."""

LEAST_S = 0.001
"""Less time than this is none: clocks and sockets are not finer."""


@dataclass(frozen=True)
class Deadline:
    """When a call has to be over.

    Attributes
    ----------
    limit_s
        The caller's limit on the whole call; None: there is none.
    ends_at_s
        On the monotonic clock; infinite where there is no limit.
    """

    limit_s: float | None
    ends_at_s: float

    @classmethod
    def after(cls, limit_s: float | None) -> Deadline:
        """The deadline that is `limit_s` from now."""
        return cls(limit_s, math.inf if limit_s is None else time.monotonic() + limit_s)

    @property
    def left_s(self) -> float | None:
        """Seconds left, never below 0; None where there is no limit."""
        return None if self.limit_s is None else max(0.0, self.ends_at_s - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether no time is left, or too little to do anything with."""
        return self.left_s is not None and self.left_s < LEAST_S

    def exceeded(self) -> DeadlineExceeded:
        """The error to raise when it is over."""
        return DeadlineExceeded(
            expected=f"an answer within {self.limit_s:g} s",
            found="none",
            remedy="Allow more time, or ask when the service has less to do.",
        )


@dataclass(frozen=True)
class Retries:
    """How often, and after how long, to ask a busy or missing service again.

    Waits double from `first_wait_s`, less a part that chance decides. A wait that
    the service asks for (Retry-After) is never cut short: it is made up to a tenth
    longer, or, where it is beyond `longest_wait_s` or the deadline, not begun.

    Attributes
    ----------
    times
        Tries after the first; 0 for none.
    first_wait_s, longest_wait_s
        Bounds of one wait.

    Raises
    ------
    ConfigError
        A number is below 0.
    """

    times: int = 6
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
        """Seconds to wait after so many failures, at least what the service asked for."""
        chance = random.random()
        if retry_after_s is not None:
            return retry_after_s * (1 + 0.1 * chance)
        # the exponent is bounded: a float has no 2**1024
        full = self.first_wait_s * 2.0 ** min(failures - 1, 64)
        return min(full, self.longest_wait_s) * (1 - JITTER * chance)

    def run(
        self, ask: Callable[[], Result], deadline: Deadline, say: Callable[[str, None], None]
    ) -> Result:
        """What `ask` returns, asked again for as long as it makes sense.

        Parameters
        ----------
        ask
            Asks once.
        deadline
            Of all tries and waits together.
        say
            Told of each wait.

        Raises
        ------
        ServiceBusy, ServiceUnavailable
            As the last try raised it: there was no further one, or no time for it.
        DeadlineExceeded
            The time was over before a try.
        """
        failures = 0
        while True:
            if deadline.is_over:
                raise deadline.exceeded()
            try:
                return ask()
            except (ServiceBusy, ServiceUnavailable) as error:
                failures += 1
                wait_s = self.wait_s(failures, error.retry_after_s)
                too_long = (error.retry_after_s or 0) > self.longest_wait_s
                if failures > self.times or too_long or wait_s >= _seconds(deadline.left_s):
                    raise
                reason = "busy" if isinstance(error, ServiceBusy) else "unavailable"
            say(f"waiting ({reason}, trying again in {math.ceil(wait_s)} s)", None)
            time.sleep(wait_s)


def _seconds(left_s: float | None) -> float:
    return math.inf if left_s is None else left_s
