"""Does an exported model give the labels of the network it came from?

    python -m export.verify RUN/best.pt models/compact --scans IMAGES...

PyTorch in fp32 is the truth. ONNX Runtime and OpenVINO, each in every
precision this machine computes in, answer the same scans; below the required share of
equal voxels in a default precision the model is not published.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurobento.backends import BACKENDS, Images, Labels, open_backend
from neurobento.command import run
from neurobento.dice import class_dice
from neurobento.errors import BackendUnavailable, ConfigError, ParityFailure
from neurobento.geometry import NETWORK_SHAPE
from neurobento.networks.weights import load_network
from neurobento.preprocessing import preprocess
from neurobento.registry import Model, open_model
from neurobento.scan import read_scan

__all__ = ["REQUIRED_AGREEMENT", "main", "read_images", "verify"]

REQUIRED_AGREEMENT = 0.995
"""Share of all voxels with equal labels, on every scan."""

FEWEST_SCANS = 3


def read_images(paths: Sequence[Path]) -> Images:
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
            remedy="Give NAME_image.nii.gz files that training.label wrote.",
        )
    return np.stack([preprocess(read_scan(path), "none").image[None] for path in paths])


def verify(network: Any, model: Model, images: Images) -> dict[str, Any]:
    """How each backend agrees with PyTorch, for the model's spec.

    A precision that this machine cannot compute in is listed as not verified.

    Parameters
    ----------
    network
        The PyTorch network the model was exported from.
    model
        The exported model.
    images
        (N, 1, 91, 122, 123) float32.

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
    }
    for name, (_, _, precisions) in BACKENDS.items():
        for precision in precisions:
            try:
                backend = open_backend(model, name, precision=precision)
            except BackendUnavailable as error:
                # fp32 is what every machine computes in; without it nothing was verified
                if precision == "fp32":
                    raise
                results[f"{name} {precision}"] = {"not_verified": error.message}
                continue
            results[f"{name} {precision}"] = _compare(backend.infer(images), truth)
            backend.close()
    _require_agreement(model, results)
    return results


def _pytorch_labels(network: Any, images: Images) -> Labels:
    import torch

    with torch.inference_mode():
        return np.concatenate(
            [network.labels(torch.from_numpy(image[None])).numpy() for image in images]
        )


def _compare(found: Labels, truth: Labels) -> dict[str, float]:
    agreement = [float((f == t).mean()) for f, t in zip(found, truth, strict=True)]
    dice = np.stack([class_dice(f, t) for f, t in zip(found, truth, strict=True)])
    return {
        "least_agreement": round(min(agreement), 6),
        "mean_dice": round(float(np.nanmean(dice)), 6),
        "worst_region_dice": round(float(np.nanmin(dice)), 6),
    }


def _require_agreement(model: Model, results: dict[str, Any]) -> None:
    for name, result in results.items():
        if not name.endswith("fp32") or not isinstance(result, dict):
            continue
        if result["least_agreement"] < REQUIRED_AGREEMENT:
            raise ParityFailure(
                subject=str(model.onnx),
                expected=f"{name} to agree with PyTorch on {REQUIRED_AGREEMENT:.3f} of the voxels",
                found=f"{result['least_agreement']:.4f}",
                remedy="Nothing was published. Compare the graphs layer by layer.",
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; prints the result as JSON."""
    parser = argparse.ArgumentParser(prog="python -m export.verify")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("model", type=Path, help="folder with model.onnx and spec.json")
    parser.add_argument("--scans", type=Path, nargs="+", required=True)
    args = parser.parse_args(argv)
    result = verify(load_network(args.checkpoint), open_model(args.model), read_images(args.scans))
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "export.verify"))
