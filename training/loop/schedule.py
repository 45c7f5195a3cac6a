"""The schedule of the learning rate that several tasks share."""

from __future__ import annotations

import math

__all__ = ["warm_up_and_cosine"]


def warm_up_and_cosine(step: int, steps: int, learning_rate: float, warmup_steps: int) -> float:
    """Return a step's rate: a linear warm-up, then half a cosine to zero at the last step."""
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
