"""Add an int8 form to a model, if it is as good.

    python -m export.quantise models/highresnet --calibrate IMAGES... --scans IMAGES...
    python -m export.quantise models/compact --spare-ends --calibrate IMAGES... --scans IMAGES...

ONNX Runtime's static quantisation, weights by channel; the range comes from training scans. Norms,
depthwise convolutions and the last layer stay; with --spare-ends so do the first and the last
convolution, which lose most. If the Dice against the labels beside `--scans` is more than 0.003
below PyTorch's in fp32, nothing is written.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.graph.constants import load_in_single
from export.publish import staging_folder
from export.verification.configs import configs_to_verify
from export.verification.labels import ALLOWED_DICE_LOSS, read_images, read_labels, verify_labels
from neurobento.backends import ImageBatch, LabelBatch
from neurobento.backends.pytorch import open_weights
from neurobento.command import run
from neurobento.errors import ConfigError, ParityFailure
from neurobento.files import file_sha256
from neurobento.imaging.scan import read_scan
from neurobento.networks.weights import load_network
from neurobento.preprocessing import preprocess
from neurobento.registry import INT8_FILE, SPEC_FILE, Model, open_model
from neurobento.spec import ModelSpec

__all__ = ["main", "publish_int8", "quantise"]

MUST_PASS = "openvino int8"

logger = logging.getLogger(__name__)


def quantise(
    source: Path, scans: Sequence[Path], target: Path, *, spare_ends: bool = False
) -> None:
    """Write an ONNX model's int8 form; `scans` are training images on the network grid."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory(prefix="neurobento-int8-") as folder:
        whole = Path(folder, "single.onnx")
        model = onnx.load(source)
        # The quantisation does not see weights behind a cast.
        load_in_single(model)
        onnx.save(model, whole)
        quantize_static(
            whole,
            target,
            _calibration_reader(scans),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_excluded_layers(model, spare_ends=spare_ends),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def _calibration_reader(scans: Sequence[Path]) -> Any:
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    images = (np.asarray(preprocess(read_scan(path), "none").image)[None, None] for path in scans)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, ImageBatch] | None:
            image = next(images, None)
            return None if image is None else {"image": image}

    return Reader()


def _excluded_layers(model: onnx.ModelProto, *, spare_ends: bool) -> list[str]:
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    groups = [{a.name: a.i for a in node.attribute}.get("group", 1) for node in layers]
    by_channel = [node.name for node, group in zip(layers, groups, strict=True) if group > 1]
    whole = [node.name for node, group in zip(layers, groups, strict=True) if group == 1]
    return by_channel + ([whole[0], whole[-1]] if spare_ends else [])


def publish_int8(
    folder: Path,
    calibration: Sequence[Path],
    images: ImageBatch,
    labels: LabelBatch,
    *,
    spare_ends: bool = False,
) -> ModelSpec:
    """Add an int8 form to the model in `folder`; ParityFailure if it is worse.

    `calibration` are training scans, `images` and `labels` a batch for verification.
    """
    model = open_model(folder)
    network = load_network(open_weights(model))
    with staging_folder(folder) as new_folder:
        shutil.copytree(folder, new_folder, dirs_exist_ok=True)
        quantise(model.onnx, calibration, new_folder / INT8_FILE, spare_ends=spare_ends)
        spec = dataclasses.replace(model.spec, int8_sha256=file_sha256(new_folder / INT8_FILE))
        configs = [config for config in configs_to_verify() if config.precision == "int8"]
        verified = verify_labels(network, Model(new_folder, spec), images, labels, configs)
        _require_dice(folder, verified)
        results = {str(config): verified[str(config)] for config in configs}
        spec = dataclasses.replace(spec, verification={**model.spec.verification, **results})
        spec.write(new_folder / SPEC_FILE)
    return spec


def _require_dice(folder: Path, verified: dict[str, Any]) -> None:
    result, reference = verified[MUST_PASS], verified["reference_dice"]
    if not result.get("passed"):
        raise ParityFailure(
            subject=str(folder),
            expected=f"a Dice within {ALLOWED_DICE_LOSS} of PyTorch's {reference:.4f} in int8",
            found=f"{result['dice']:.4f}" if "dice" in result else result["not_verified"],
            remedy="Nothing was published: this model is not offered in int8.",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m export.quantise")
    parser.add_argument("model", type=Path, help="models/NAME")
    parser.add_argument("--calibrate", type=Path, nargs="+", required=True, metavar="IMAGE")
    parser.add_argument("--scans", type=Path, nargs="+", required=True, metavar="IMAGE")
    parser.add_argument(
        "--spare-ends", action="store_true", help="leave the first and the last convolution in fp32"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # ONNX Runtime advises a preprocessing pass that the exporter has already made.
    logging.getLogger().addFilter(lambda record: "pre-processing" not in record.getMessage())
    images, labels = read_images(args.scans), read_labels(args.scans)
    if labels is None:
        raise ConfigError(
            subject="--scans",
            expected="NAME_labels.nii.gz beside every NAME_image.nii.gz",
            found="scans without them",
            remedy="Give scans that training.parcellation.label has labelled.",
        )
    spec = publish_int8(args.model, args.calibrate, images, labels, spare_ends=args.spare_ends)
    logger.info("%s int8: %s", spec.name, json.dumps(spec.verification[MUST_PASS]))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "export.quantise"))
