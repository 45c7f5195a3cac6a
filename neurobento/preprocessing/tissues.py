"""The tissues that the brain finder tells apart."""

from __future__ import annotations

__all__ = ["NO_BRAIN_TISSUE", "TISSUES"]

TISSUES = (
    "air",
    "other head",
    "cerebrospinal fluid",
    "ventricles",
    "cerebral cortex",
    "cerebral white matter",
    "deep grey matter",
    "hippocampus and amygdala",
    "cerebellar cortex",
    "cerebellar white matter",
    "brainstem",
)
"""The tissues, in the order of the tissue map's values."""

NO_BRAIN_TISSUE = tuple(
    map(TISSUES.index, ("air", "other head", "cerebrospinal fluid", "ventricles"))
)
"""Values in the tissue map."""
