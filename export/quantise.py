"""An int8 form of a model, kept only if it is as good.

    python -m export.quantise models/highresnet --calibrate IMAGES... --scans IMAGES...
    python -m export.quantise models/compact --spare-ends --calibrate IMAGES... --scans IMAGES...

Convolutions' weights and what comes in and goes out of them are rounded to 256
levels (ONNX Runtime's static quantisation, weights by channel); norms, convolutions
channel by channel, the last layer and the search for the largest class are not, nor,
if the ends are spared, the first and the last convolution, which lose most. The levels' range is
taken from training scans. The Dice against the labels beside `--scans` must then
be within 0.003 of PyTorch's in fp32; otherwise nothing is written.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from export.to_onnx import staged
from export.verify import ALLOWED_DICE_LOSS, read_images, read_labels, verify
from neurobento.backends import ImageBatch, LabelBatch, list_backend_configs
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
    """Write the int8 form of an ONNX model.

    Parameters
    ----------
    source
        The model in fp32.
    scans
        Images on the network grid that say how large the numbers between the
        layers get; training scans, so that the test stays one.
    target
        Where to.
    spare_ends
        The first and the last convolution stay in single precision.
    """
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images = _images(scans)

        def get_next(self) -> dict[str, ImageBatch] | None:
            image = next(self._images, None)
            return None if image is None else {"image": image}

    with tempfile.TemporaryDirectory(prefix="neurobento-int8-") as folder:
        whole = Path(folder, "single.onnx")
        model = onnx.load(source)
        _widen(model)
        onnx.save(model, whole)
        quantize_static(
            whole,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_spared(model, spare_ends=spare_ends),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def _spared(model: onnx.ModelProto, *, spare_ends: bool) -> list[str]:
    """Names of the convolutions that stay as they are."""
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    groups = [{a.name: a.i for a in node.attribute}.get("group", 1) for node in layers]
    by_channel = [node.name for node, group in zip(layers, groups, strict=True) if group > 1]
    whole = [node.name for node, group in zip(layers, groups, strict=True) if group == 1]
    return by_channel + ([whole[0], whole[-1]] if spare_ends else [])


def _images(scans: Sequence[Path]) -> Iterator[ImageBatch]:
    for path in scans:
        yield np.asarray(preprocess(read_scan(path), "none").image)[None, None]


def _widen(model: onnx.ModelProto) -> None:
    """Constants kept in half precision, in single: the quantisation sees no weights in a cast."""
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    kept = []
    for node in graph.node:
        half = constants.get(node.input[0]) if node.op_type == "Cast" else None
        if half is None or half.data_type != onnx.TensorProto.FLOAT16:
            kept.append(node)
            continue
        values = numpy_helper.to_array(half).astype(np.float32)
        half.CopyFrom(numpy_helper.from_array(values, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)


def publish_int8(
    folder: Path,
    calibration: Sequence[Path],
    images: ImageBatch,
    labels: LabelBatch,
    *,
    spare_ends: bool = False,
) -> ModelSpec:
    """Put an int8 form beside a model; its folder is left as it was if that is not as good.

    Parameters
    ----------
    folder
        models/NAME.
    calibration
        Training scans.
    images, labels
        (N, 1, 91, 122, 123) float32 and (N, 91, 122, 123) uint8 to verify on.
    spare_ends
        As for `quantise`.

    Raises
    ------
    ParityFailure
        Its Dice is further from PyTorch's than allowed.
    """
    model = open_model(folder)
    network = load_network(open_weights(model))
    with staged(folder) as made:
        shutil.copytree(folder, made, dirs_exist_ok=True)
        quantise(model.onnx, calibration, made / INT8_FILE, spare_ends=spare_ends)
        spec = dataclasses.replace(model.spec, int8_sha256=file_sha256(made / INT8_FILE))
        ways = [way for way in list_backend_configs() if way.precision == "int8"]
        found = verify(network, Model(made, spec), images, labels, ways)
        _require_dice(folder, found)
        results = {str(way): found[str(way)] for way in ways}
        spec = dataclasses.replace(spec, verification={**model.spec.verification, **results})
        spec.write(made / SPEC_FILE)
    return spec


def _require_dice(folder: Path, found: dict[str, Any]) -> None:
    result, reference = found[MUST_PASS], found["reference_dice"]
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
        "--spare-ends", action="store_true", help="not the first and the last convolution"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # it advises a pass over the graph that the exporter has made already
    logging.getLogger().addFilter(lambda record: "pre-processing" not in record.getMessage())
    images, labels = read_images(args.scans), read_labels(args.scans)
    if labels is None:
        raise ConfigError(
            subject="--scans",
            expected="NAME_labels.nii.gz beside every NAME_image.nii.gz",
            found="some without",
            remedy="Give scans that training.parcellation.label has labelled.",
        )
    spec = publish_int8(args.model, args.calibrate, images, labels, spare_ends=args.spare_ends)
    logger.info("%s int8: %s", spec.name, json.dumps(spec.verification[MUST_PASS]))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "export.quantise"))
