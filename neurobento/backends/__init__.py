"""Run a model on OpenVINO, ONNX Runtime, TensorRT or PyTorch, with no silent fallback."""

from neurobento.backends.base import Backend, ImageBatch, LabelBatch, OutputBatch
from neurobento.backends.selection import open_backend
from neurobento.backends.table import (
    BACKENDS,
    DEVICES,
    BackendConfig,
    BackendEntry,
    list_backend_configs,
)

__all__ = [
    "BACKENDS",
    "DEVICES",
    "Backend",
    "BackendConfig",
    "BackendEntry",
    "ImageBatch",
    "LabelBatch",
    "OutputBatch",
    "list_backend_configs",
    "open_backend",
]
