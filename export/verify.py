"""Does an exported model give the labels of the network it came from?

    python -m export.verify models/* --scans IMAGES... --write

PyTorch in fp32, from the weights beside the ONNX file, is the truth. Everything
that runs the model here answers the same scans: ONNX Runtime, OpenVINO and
TensorRT engines, each in every precision. Below the required share of equal
voxels in fp32 the model is not published; fp16 and bf16 do not pass. int8 passes if
its Dice against labels is as good. What
cannot run here is listed as not verified. Where labels lie beside the scans, as
`training.parcellation.label` leaves them, the Dice against them is told too, and printed
region by region.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurobento.backends import (
    BACKENDS,
    BackendConfig,
    ImageBatch,
    LabelBatch,
    list_backend_configs,
    open_backend,
)
from neurobento.backends.pytorch import open_weights
from neurobento.command import run
from neurobento.dice import class_dice, mean_dice
from neurobento.errors import BackendUnavailable, ConfigError, EngineMismatch, ParityFailure
from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.imaging.scan import read_scan
from neurobento.labels import aal116
from neurobento.networks.weights import load_network
from neurobento.preprocessing import preprocess
from neurobento.registry import SPEC_FILE, Model, open_model

__all__ = [
    "ALLOWED_DICE_LOSS",
    "REQUIRED_AGREEMENT",
    "main",
    "read_images",
    "read_labels",
    "remember",
    "verify",
]

REQUIRED_AGREEMENT = 0.995
"""Share of all voxels with equal labels, on every scan."""

ALLOWED_DICE_LOSS = 0.003
"""Of int8, whose labels may differ from PyTorch's as long as they are as good."""

FEWEST_SCANS = 3

LONGEST_MESSAGE = 300

NEEDED = (BackendConfig("openvino", "cpu", "fp32"), BackendConfig("onnxruntime", "cpu", "fp32"))
"""What every machine that exports can run; without it nothing was verified."""


logger = logging.getLogger(__name__)


def read_images(paths: Sequence[Path]) -> ImageBatch:
    """Images on the network grid, (N, 1, 91, 122, 123) float32.

    Raises
    ------
    ConfigError
        Fewer than three scans.
    ScanError
        One is not on the network grid.
    """
    if len(paths) < FEWEST_SCANS:
        raise ConfigError(
            subject="--scans",
            expected=f"at least {FEWEST_SCANS} scans",
            found=str(len(paths)),
            remedy="Give NAME_image.nii.gz files that training.parcellation.label wrote.",
        )
    return np.stack([preprocess(read_scan(path), "none").image[None] for path in paths])


def read_labels(paths: Sequence[Path]) -> LabelBatch | None:
    """(N, 91, 122, 123) uint8: NAME_labels.nii.gz beside NAME_image.nii.gz, if all are there."""
    beside = [path.with_name(path.name.replace("_image.", "_labels.")) for path in paths]
    if any(path in paths or not path.is_file() for path in beside):
        return None
    return np.stack([read_scan(path).array.astype(np.uint8) for path in beside])


def verify(
    network: Any,
    model: Model,
    images: ImageBatch,
    labels: LabelBatch | None = None,
    ways: Sequence[BackendConfig] | None = None,
    *,
    by_region: bool = False,
) -> dict[str, Any]:
    """How each way to run a model agrees with PyTorch, for the model's spec.

    What this machine cannot run is listed as not verified.

    Parameters
    ----------
    network
        The PyTorch network the model was exported from.
    model
        The exported model.
    images
        (N, 1, 91, 122, 123) float32.
    labels
        (N, 91, 122, 123) uint8, to tell the Dice of; none if there are none.
    ways
        What to verify; everything there is by default.
    by_region
        Whether the Dice of every class is told where there are labels.

    Raises
    ------
    ParityFailure
        A backend in fp32 agrees on fewer voxels than required.
    """
    truth = _pytorch_labels(network, images)
    results: dict[str, Any] = {
        "reference": "PyTorch fp32",
        "scans": len(images),
        "grid": list(NETWORK_SHAPE),
        "required_agreement": REQUIRED_AGREEMENT,
        "allowed_dice_loss": ALLOWED_DICE_LOSS,
    }
    if labels is not None:
        results["reference_dice"] = _scans_dice(truth, labels)
    for way in ways or list_backend_configs():
        if BACKENDS[way.backend].package != "torch":
            result = _answer(way, model, images, truth, labels)
            regions = result.pop("dice_by_region", None)
            logger.info("%s %s: %s", model.spec.name, way, json.dumps(result))
            if by_region and regions is not None:
                result["dice_by_region"] = regions
            results[str(way)] = result
    _require_agreement(model, results)
    return results


def _answer(
    way: BackendConfig,
    model: Model,
    images: ImageBatch,
    truth: LabelBatch,
    labels: LabelBatch | None,
) -> dict[str, Any]:
    if way.precision == "int8" and labels is None:
        return {"not_verified": "no labels beside the scans"}
    try:
        found = _labels_of(way, model, images)
    except (BackendUnavailable, EngineMismatch) as error:
        if way in NEEDED:
            raise
        return {"not_verified": error.public_message}
    except RuntimeError as error:
        # such as too little memory on the GPU: the other ways can still be verified
        if way in NEEDED:
            raise
        return {"not_verified": str(error)[:LONGEST_MESSAGE]}
    result = _compare(found, truth)
    if labels is not None:
        result["dice"] = _scans_dice(found, labels)
        result["dice_by_region"] = _dice_by_region(found, labels)
        if way.precision == "int8":
            loss = _scans_dice(truth, labels) - result["dice"]
            result["passed"] = loss <= ALLOWED_DICE_LOSS
    return result


def _labels_of(way: BackendConfig, model: Model, images: ImageBatch) -> LabelBatch:
    backend = open_backend(
        model, way.backend, device=way.device, precision=way.precision, unverified=True
    )
    with contextlib.closing(backend):
        if way.device == "cuda":
            # the second answer counts: it is what a recording of the first gives
            backend.infer(images)
        return backend.infer(images)


def _pytorch_labels(network: Any, images: ImageBatch) -> LabelBatch:
    import torch

    with torch.inference_mode():
        return np.concatenate(
            [network.labels(torch.from_numpy(image[None])).numpy() for image in images]
        )


def _scans_dice(found: LabelBatch, truth: LabelBatch) -> float:
    scores = [mean_dice(f, t) for f, t in zip(found, truth, strict=True)]
    return round(float(np.mean(scores)), 4)


def _dice_by_region(found: LabelBatch, truth: LabelBatch) -> list[float | None]:
    """Of every class, over the scans that have it; none where no scan has it."""
    scores = np.stack([class_dice(f, t) for f, t in zip(found, truth, strict=True)])
    return [
        None if np.isnan(of_one).all() else round(float(np.nanmean(of_one)), 4)
        for of_one in scores.T
    ]


def _compare(found: LabelBatch, truth: LabelBatch) -> dict[str, Any]:
    agreement = [float((f == t).mean()) for f, t in zip(found, truth, strict=True)]
    dice = np.stack([class_dice(f, t) for f, t in zip(found, truth, strict=True)])
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


def remember(verified: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """What was verified, and what an earlier run on another machine verified beyond that."""
    kept = {
        name: result
        for name, result in known.items()
        if isinstance(result, dict) and "passed" in result
    }
    return {
        name: kept.get(name, result)
        if isinstance(result, dict) and "not_verified" in result
        else result
        for name, result in verified.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; prints the results of all models as one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m export.verify")
    parser.add_argument("models", type=Path, nargs="+", help="folders of models")
    parser.add_argument("--scans", type=Path, nargs="+", required=True)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--write", action="store_true", help="put the results into spec.json")
    chosen.add_argument("--backends", nargs="+", choices=list(BACKENDS), help="these alone")
    args = parser.parse_args(argv)
    ways = [way for way in list_backend_configs() if way.backend in (args.backends or BACKENDS)]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    images, labels = read_images(args.scans), read_labels(args.scans)
    results: dict[str, Any] = {}
    try:
        for folder in args.models:
            model = open_model(folder)
            if model.spec.task != "parcellation":
                logger.info("%s: left out, for it takes no scans", model.spec.name)
                continue
            network = load_network(open_weights(model))
            result = verify(network, model, images, labels, ways, by_region=True)
            results[model.spec.name] = result
            if args.write:
                verification = remember(_without_regions(result), model.spec.verification)
                spec = dataclasses.replace(model.spec, verification=verification)
                spec.write(folder / SPEC_FILE)
    finally:
        # of a run of hours, what was found before a failure too
        print(json.dumps(results, indent=2), flush=True)
    return 0


def _without_regions(results: dict[str, Any]) -> dict[str, Any]:
    """The results as spec.json keeps them."""
    return {
        name: {key: value for key, value in result.items() if key != "dice_by_region"}
        if isinstance(result, dict)
        else result
        for name, result in results.items()
    }


if __name__ == "__main__":
    raise SystemExit(run(main, "export.verify"))
