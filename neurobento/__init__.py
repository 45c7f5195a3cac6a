"""neurobento: a T1-weighted scan in, the parcellation of its 116 AAL regions out."""

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
