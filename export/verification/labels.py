"""Compare the labels of an exported model with those of its PyTorch network."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.verification.configs import NEEDED, configs_to_verify
from neurobento.backends import BackendConfig, ImageBatch, LabelBatch, open_backend
from neurobento.dice import class_dice, mean_dice
from neurobento.errors import BackendUnavailable, ConfigError, EngineMismatch, ParityFailure
from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.imaging.scan import read_scan
from neurobento.labels import aal116
from neurobento.parcellation.answer import labels_of_images
from neurobento.preprocessing import preprocess
from neurobento.registry import Model

__all__ = ["ALLOWED_DICE_LOSS", "REQUIRED_AGREEMENT", "read_images", "read_labels", "verify_labels"]

REQUIRED_AGREEMENT = 0.995
"""Share of all voxels that must have equal labels, on every scan."""

ALLOWED_DICE_LOSS = 0.003
"""For int8, whose labels may differ from PyTorch's as long as they are as good."""

FEWEST_SCANS = 3

LONGEST_MESSAGE = 300

logger = logging.getLogger(__name__)


def read_images(paths: Sequence[Path]) -> ImageBatch:
    """Read at least three images on the network grid, (N, 1, 91, 122, 123) float32, or raise."""
    if len(paths) < FEWEST_SCANS:
        raise ConfigError(
            subject="--scans",
            expected=f"at least {FEWEST_SCANS} scans",
            found=str(len(paths)),
            remedy="Give NAME_image.nii.gz files that training.parcellation.label wrote.",
        )
    return np.stack([preprocess(read_scan(path), "none").image[None] for path in paths])


def read_labels(paths: Sequence[Path]) -> LabelBatch | None:
    """Read NAME_labels.nii.gz beside each image, or return None if one is missing."""
    beside = [path.with_name(path.name.replace("_image.", "_labels.")) for path in paths]
    if any(path in paths or not path.is_file() for path in beside):
        return None
    return np.stack([read_scan(path).array.astype(np.uint8) for path in beside])


def verify_labels(
    network: Any,
    model: Model,
    images: ImageBatch,
    labels: LabelBatch | None = None,
    configs: Sequence[BackendConfig] | None = None,
    *,
    by_region: bool = False,
) -> dict[str, Any]:
    """Return how each configuration agrees with the model's PyTorch network, for the model's spec.

    With labels the results hold the Dice against them, on demand by region too. Raises
    ParityFailure if one in fp32 agrees on too few voxels.
    """
    reference = _pytorch_labels(network, images)
    results: dict[str, Any] = {
        "reference": "PyTorch fp32",
        "scans": len(images),
        "grid": list(NETWORK_SHAPE),
        "required_agreement": REQUIRED_AGREEMENT,
        "allowed_dice_loss": ALLOWED_DICE_LOSS,
    }
    if labels is not None:
        results["reference_dice"] = _scans_dice(reference, labels)
    for config in configs_to_verify() if configs is None else configs:
        result = _result(config, model, images, reference, labels)
        regions = result.pop("dice_by_region", None)
        logger.info("%s %s: %s", model.spec.name, config, json.dumps(result))
        if by_region and regions is not None:
            result["dice_by_region"] = regions
        results[str(config)] = result
    _require_agreement(model, results)
    return results


def _result(
    config: BackendConfig,
    model: Model,
    images: ImageBatch,
    reference: LabelBatch,
    labels: LabelBatch | None,
) -> dict[str, Any]:
    if config.precision == "int8" and labels is None:
        return {"not_verified": "no labels beside the scans"}
    # A needed configuration must run; the others may fail here.
    try:
        found = _backend_labels(config, model, images)
    except (BackendUnavailable, EngineMismatch) as error:
        if config in NEEDED:
            raise
        return {"not_verified": error.public_message}
    except RuntimeError as error:
        # Such as too little GPU memory.
        if config in NEEDED:
            raise
        return {"not_verified": str(error)[:LONGEST_MESSAGE]}
    # In int8 the Dice decides, otherwise the agreement.
    result = _compare(found, reference)
    if labels is not None:
        result["dice"] = _scans_dice(found, labels)
        result["dice_by_region"] = _dice_by_region(found, labels)
        if config.precision == "int8":
            loss = _scans_dice(reference, labels) - result["dice"]
            result["passed"] = loss <= ALLOWED_DICE_LOSS
    return result


def _backend_labels(config: BackendConfig, model: Model, images: ImageBatch) -> LabelBatch:
    backend = open_backend(
        model, config.backend, device=config.device, precision=config.precision, unverified=True
    )
    with contextlib.closing(backend):
        if config.device == "cuda":
            # The first call records a CUDA graph; the second replays it and is the one to verify.
            backend.infer(images)
        if backend.atlas is None:
            return backend.infer(images)
        # labels are read from the positions, so those are what must be right
        return labels_of_images(backend.answer(images), backend.atlas)


def _pytorch_labels(network: Any, images: ImageBatch) -> LabelBatch:
    import torch

    with torch.inference_mode():
        return np.concatenate(
            [network.labels(torch.from_numpy(image[None])).numpy() for image in images]
        )


def _scans_dice(found: LabelBatch, labels: LabelBatch) -> float:
    scores = [mean_dice(f, t) for f, t in zip(found, labels, strict=True)]
    return round(float(np.mean(scores)), 4)


def _dice_by_region(found: LabelBatch, labels: LabelBatch) -> list[float | None]:
    """Return each class's mean Dice over the scans that have it, or None."""
    scores = np.stack([class_dice(f, t) for f, t in zip(found, labels, strict=True)])
    return [
        None if np.isnan(of_class).all() else round(float(np.nanmean(of_class)), 4)
        for of_class in scores.T
    ]


def _compare(found: LabelBatch, reference: LabelBatch) -> dict[str, Any]:
    agreement = [float((f == t).mean()) for f, t in zip(found, reference, strict=True)]
    dice = np.stack([class_dice(f, t) for f, t in zip(found, reference, strict=True)])
    worst = int(np.unravel_index(np.nanargmin(dice), dice.shape)[1])
    return {
        "passed": min(agreement) >= REQUIRED_AGREEMENT,
        "least_agreement": round(min(agreement), 6),
        "mean_dice": round(float(np.nanmean(dice)), 6),
        "worst_region": "background" if worst == 0 else aal116()[worst].name,
        "worst_region_dice": round(float(np.nanmin(dice)), 6),
    }


def _require_agreement(model: Model, results: dict[str, Any]) -> None:
    for name, result in results.items():
        if " fp32" in name and not result.get("passed", True):
            raise ParityFailure(
                subject=str(model.onnx),
                expected=f"{name} to agree with PyTorch on {REQUIRED_AGREEMENT:.3f} of the voxels",
                found=f"{result['least_agreement']:.4f}",
                remedy="Nothing was published. Compare the graphs layer by layer.",
            )
