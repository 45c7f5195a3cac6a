"""The backend configurations in which exported models are verified."""

from __future__ import annotations

from collections.abc import Collection

from neurobento.backends import BACKENDS, BackendConfig, list_backend_configs

__all__ = ["NEEDED", "configs_to_verify"]

NEEDED = (BackendConfig("openvino", "cpu", "fp32"), BackendConfig("onnxruntime", "cpu", "fp32"))
"""Every machine that exports can run these; without them a model is not verified."""


def configs_to_verify(backends: Collection[str] = BACKENDS) -> list[BackendConfig]:
    """Return all configurations of the backends but PyTorch's, which is the reference."""
    return [
        config
        for config in list_backend_configs()
        if config.backend in backends and BACKENDS[config.backend].package != "torch"
    ]
