"""Does an exported anomaly model give the scores of the network it came from?

What differs between runtimes is usually what is done around the network; here that is
inside the graph, and scores and error maps have to agree to a thousandth.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.anomaly.fit import fit_slice
from neurobento.backends import (
    BACKENDS,
    BackendConfig,
    OutputBatch,
    list_backend_configs,
    open_backend,
)
from neurobento.errors import BackendUnavailable, EngineMismatch, ParityFailure
from neurobento.imaging.slices.reader import read_slice
from neurobento.registry import Model

__all__ = ["LARGEST_DIFFERENCE", "read_fitted", "verify_scores"]

LARGEST_DIFFERENCE = 1e-3
"""Of a score or a pixel of the error map, between a runtime in fp32 and PyTorch."""

NEEDED = (BackendConfig("openvino", "cpu", "fp32"), BackendConfig("onnxruntime", "cpu", "fp32"))

logger = logging.getLogger(__name__)


def read_fitted(paths: Sequence[Path]) -> NDArray[np.float32]:
    """Slices as networks see them, (N, 1, 128, 128) float32."""
    return np.stack([fit_slice(read_slice(path)).image for path in paths])[:, None]


def verify_scores(
    network: Any,
    model: Model,
    images: NDArray[np.float32],
    ways: Sequence[BackendConfig] | None = None,
) -> dict[str, Any]:
    """How each way to run an anomaly model agrees with PyTorch, for the model's spec.

    Parameters
    ----------
    network
        The PyTorch network the model was exported from.
    model
        The exported model.
    images
        (N, 1, 128, 128) float32; `read_fitted` reads them.
    ways
        What to verify; everything there is by default.

    Raises
    ------
    ParityFailure
        A backend in fp32 gives a score or a pixel that differs by more than allowed.
    """
    import torch

    with torch.inference_mode():
        found = network.detect(torch.from_numpy(images))
    truth = {name: each.numpy() for name, each in zip(model.spec.outputs, found, strict=True)}
    results: dict[str, Any] = {
        "reference": "PyTorch fp32",
        "slices": len(images),
        "largest_difference_allowed": LARGEST_DIFFERENCE,
    }
    for way in ways or list_backend_configs():
        if BACKENDS[way.backend].package != "torch":
            results[str(way)] = result = _answer(way, model, images, truth)
            logger.info("%s %s: %s", model.spec.name, way, json.dumps(result))
            if " fp32" in str(way) and not result.get("passed", True):
                raise ParityFailure(
                    subject=str(model.onnx),
                    expected=f"{way} to agree with PyTorch to {LARGEST_DIFFERENCE}",
                    found=f"{max(result['score'], result['error_map']):.2g} off",
                    remedy="Nothing was published. Compare the graphs layer by layer.",
                )
    return results


def _answer(
    way: BackendConfig, model: Model, images: NDArray[np.float32], truth: OutputBatch
) -> dict[str, Any]:
    try:
        backend = open_backend(
            model, way.backend, device=way.device, precision=way.precision, unverified=True
        )
        with contextlib.closing(backend):
            found = backend.run(images)
    except (BackendUnavailable, EngineMismatch) as error:
        if way in NEEDED:
            raise
        return {"not_verified": error.public_message}
    largest = {
        name: float(np.abs(np.subtract(found[name], truth[name], dtype=np.float32)).max())
        for name in truth
    }
    return {"passed": max(largest.values()) <= LARGEST_DIFFERENCE, **largest}
