"""Parcellate a T1-weighted brain scan into the 116 AAL regions, and find anomalies in slices.

Names are imported when they are first used: `import neurobento.client` needs no NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neurobento.backends import open_backend
    from neurobento.errors import NeuroBentoError
    from neurobento.imaging.geometry import Grid
    from neurobento.imaging.scan import Scan, read_scan, write_labels
    from neurobento.labels import Region, RegionTable, aal116
    from neurobento.parcellation.parcellator import Parcellation, Parcellator
    from neurobento.registry import Model, find_model, list_models
    from neurobento.spec import ModelSpec

__all__ = [
    "Grid",
    "Model",
    "ModelSpec",
    "NeuroBentoError",
    "Parcellation",
    "Parcellator",
    "Region",
    "RegionTable",
    "Scan",
    "aal116",
    "find_model",
    "list_models",
    "open_backend",
    "read_scan",
    "write_labels",
]

_MODULES = {
    "backends": ("open_backend",),
    "errors": ("NeuroBentoError",),
    "imaging.geometry": ("Grid",),
    "imaging.scan": ("Scan", "read_scan", "write_labels"),
    "labels": ("Region", "RegionTable", "aal116"),
    "parcellation.parcellator": ("Parcellation", "Parcellator"),
    "registry": ("Model", "find_model", "list_models"),
    "spec": ("ModelSpec",),
}


if not TYPE_CHECKING:  # else a type checker would take any name

    def __getattr__(name: str) -> object:
        for module, names in _MODULES.items():
            if name in names:
                value = getattr(import_module(f"neurobento.{module}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
