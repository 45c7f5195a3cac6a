"""Simulated scans and a trivial model, so that a cohort costs little but its bookkeeping."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from neurobento.files import file_sha256
from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.labels import CLASS_COUNT
from neurobento.spec import ModelSpec

__all__ = ["write_model", "write_scan"]


def write_scan(path: Path, seed: int) -> None:
    """Write a tiny scan: blocks of 8 x 8 x 8 voxels, intensity k/116 for label k."""
    blocks = np.random.default_rng(seed).integers(0, CLASS_COUNT, (12, 16, 16), dtype=np.uint8)
    x, y, z = NETWORK_SHAPE
    image = nib.Nifti1Image(
        blocks.repeat(8, 0).repeat(8, 1).repeat(8, 2)[:x, :y, :z], np.diag([1.5, 1.5, 1.5, 1.0])
    )
    image.header.set_slope_inter(1 / (CLASS_COUNT - 1), 0)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def write_model(folder: Path) -> None:
    """Write a model that gives label k for intensity k/116; the folder's name is its name."""
    import onnx
    from onnx import TensorProto, helper

    folder.mkdir(parents=True)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, *NETWORK_SHAPE])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, ["N", *NETWORK_SHAPE])
    nodes = [
        helper.make_node("Squeeze", ["image", "axis"], ["flat"]),
        helper.make_node("Mul", ["flat", "classes"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["labels"], to=TensorProto.UINT8),
    ]
    constants = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("classes", TensorProto.FLOAT, [], [float(CLASS_COUNT - 1)]),
    ]
    graph = helper.make_graph(nodes, folder.name, [image], [labels], constants)
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "model.onnx")
    sha256 = file_sha256(folder / "model.onnx")
    spec = ModelSpec(folder.name, "0.0.1", folder.name, sha256, "0" * 64, 18)
    spec.write(folder / "spec.json")
