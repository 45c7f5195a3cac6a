"""Compare the outputs of an exported anomaly or brain model with its PyTorch network's."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.verification.configs import NEEDED, configs_to_verify
from neurobento.anomaly.fit import fit_slice
from neurobento.backends import BackendConfig, OutputBatch, open_backend
from neurobento.errors import BackendUnavailable, EngineMismatch, ParityFailure
from neurobento.imaging.scan import read_scan
from neurobento.imaging.slices.reader import read_slice
from neurobento.networks import task_function
from neurobento.registry import Model

__all__ = ["LARGEST_DIFFERENCE", "read_heads", "read_slices", "verify_scores"]

LARGEST_DIFFERENCE = 1e-3
"""Largest difference of a number from PyTorch's in fp32, or share of labels that differ."""

logger = logging.getLogger(__name__)


def read_slices(paths: Sequence[Path]) -> NDArray[np.float32]:
    """Read slices and fit them to the network grid, (N, 1, 128, 128) float32."""
    return np.stack([fit_slice(read_slice(path)).image for path in paths])[:, None]


def read_heads(paths: Sequence[Path]) -> NDArray[np.float32]:
    """Read heads that `training.brain.heads` made, (N, 1, 96, 96, 96) float32."""
    return np.stack([read_scan(path).array for path in paths])[:, None]


def verify_scores(
    network: Any,
    model: Model,
    images: NDArray[np.float32],
    configs: Sequence[BackendConfig] | None = None,
) -> dict[str, Any]:
    """Return how each configuration agrees with the model's PyTorch network, for the model's spec.

    `images` come from `read_slices` or `read_heads`. Raises ParityFailure if a backend in fp32
    differs too much.
    """
    import torch

    with torch.inference_mode():
        outputs = task_function(network)(torch.from_numpy(images))
    reference = {name: each.numpy() for name, each in zip(model.spec.outputs, outputs, strict=True)}
    results: dict[str, Any] = {
        "reference": "PyTorch fp32",
        "images": len(images),
        "largest_difference_allowed": LARGEST_DIFFERENCE,
    }
    for config in configs_to_verify() if configs is None else configs:
        results[str(config)] = result = _result(config, model, images, reference)
        logger.info("%s %s: %s", model.spec.name, config, json.dumps(result))
        if config.precision == "fp32" and not result.get("passed", True):
            raise ParityFailure(
                subject=str(model.onnx),
                expected=f"{config} to agree with PyTorch to {LARGEST_DIFFERENCE}",
                found=f"a difference of {max(result[name] for name in reference):.2g}",
                remedy="Nothing was published. Compare the graphs layer by layer.",
            )
    return results


def _result(
    config: BackendConfig, model: Model, images: NDArray[np.float32], reference: OutputBatch
) -> dict[str, Any]:
    try:
        backend = open_backend(
            model, config.backend, device=config.device, precision=config.precision, unverified=True
        )
        with contextlib.closing(backend):
            outputs = backend.run(images)
    except (BackendUnavailable, EngineMismatch) as error:
        if config in NEEDED:
            raise
        return {"not_verified": error.public_message}
    largest = {name: _difference(outputs[name], reference[name]) for name in reference}
    return {"passed": max(largest.values()) <= LARGEST_DIFFERENCE, **largest}


def _difference(found: NDArray[Any], reference: NDArray[Any]) -> float:
    if np.issubdtype(reference.dtype, np.integer):
        return float(np.mean(found != reference))
    return float(np.abs(np.subtract(found, reference, dtype=np.float32)).max())
