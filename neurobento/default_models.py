"""The models that answer when none is named, which are also those inside the wheel."""

from __future__ import annotations

__all__ = ["BRAIN_MODEL", "DEFAULT_ANOMALY_MODEL", "DEFAULT_MODEL", "DEFAULT_MODELS"]

DEFAULT_MODEL = "regions"
"""For parcellation."""

DEFAULT_ANOMALY_MODEL = "anomaly"

BRAIN_MODEL = "brain"
"""Finds the brain for models that are trained on its masks."""

DEFAULT_MODELS = (DEFAULT_MODEL, DEFAULT_ANOMALY_MODEL, BRAIN_MODEL)
