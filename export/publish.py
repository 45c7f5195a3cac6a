"""Publish a model: export it, compare it with PyTorch, and move it into models/ as a whole."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from export.graph.onnx_file import OPSET, export_onnx
from export.verification.labels import read_images, read_labels, verify_labels
from export.verification.scores import read_heads, read_slices, verify_scores
from neurobento.anomaly.thresholds import slice_threshold
from neurobento.backends import ImageBatch, LabelBatch
from neurobento.backends.pytorch import open_weights
from neurobento.files import file_sha256
from neurobento.imaging.atlas import Atlas
from neurobento.networks import task_of
from neurobento.networks.weights import load_network, read_values, write_weights
from neurobento.registry import (
    ATLAS_FILE,
    ONNX_FILE,
    SPEC_FILE,
    WEIGHTS_FILE,
    Model,
    open_model,
)
from neurobento.spec import ModelSpec

__all__ = ["publish", "publish_again", "staging_folder"]


def publish(
    checkpoint: Path,
    folder: Path,
    *,
    name: str,
    version: str,
    scans: Sequence[Path],
    metrics: dict[str, Any],
    licence: str,
) -> ModelSpec:
    """Export, verify and move into `folder`, models/NAME; a failure leaves it unchanged.

    `scans` are at least three images on the network grid, with labels beside all or none; an
    anomaly network takes slices. Raises ParityFailure if a runtime differs too much from PyTorch.
    """
    # Bad scans are refused before anything is made.
    task = task_of(load_network(checkpoint))
    images, labels = _read_compared(task, scans)
    with staging_folder(folder) as new_folder:
        values = read_values(checkpoint)
        write_weights(values, new_folder / WEIGHTS_FILE)
        export_onnx(new_folder / WEIGHTS_FILE, new_folder / ONNX_FILE)
        atlas_sha256 = _write_atlas(new_folder)
        spec = ModelSpec.of_task(
            task,
            name=name,
            version=version,
            network=values["recipe"]["network"],
            onnx_sha256=file_sha256(new_folder / ONNX_FILE),
            checkpoint_sha256=file_sha256(checkpoint),
            weights_sha256=file_sha256(new_folder / WEIGHTS_FILE),
            atlas_sha256=atlas_sha256,
            opset=OPSET,
            preprocessing_version=values["recipe"].get("preprocessing_version", 1),
            training=_training_summary(values),
            metrics=metrics,
            detection=values.get("detection", {}),
            licence=licence,
        )
        return _write_verified(new_folder, spec, images, labels)


def publish_again(folder: Path, scans: Sequence[Path]) -> ModelSpec:
    """Export a model's graph again from the weights beside it, as `publish`; drop its int8 form."""
    model = open_model(folder)
    images, labels = _read_compared(model.spec.task, scans)
    with staging_folder(folder) as new_folder:
        shutil.copy(open_weights(model), new_folder / WEIGHTS_FILE)
        export_onnx(new_folder / WEIGHTS_FILE, new_folder / ONNX_FILE)
        spec = dataclasses.replace(
            model.spec,
            onnx_sha256=file_sha256(new_folder / ONNX_FILE),
            opset=OPSET,
            int8_sha256="",
            atlas_sha256=_write_atlas(new_folder),
        )
        return _write_verified(new_folder, spec, images, labels)


@contextlib.contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `folder` at the end, unless an error occurs."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as temporary:
        new_folder = Path(temporary, folder.name)
        new_folder.mkdir()
        yield new_folder
        if folder.exists():
            # The old folder is deleted with the temporary one.
            folder.rename(Path(temporary, "replaced"))
        new_folder.rename(folder)


def _write_atlas(folder: Path) -> str:
    """Write the atlas beside the weights in a folder; return its hash, "" if they have none."""
    network: Any = load_network(folder / WEIGHTS_FILE)
    if not getattr(network, "position_block", 0):
        return ""
    atlas = Atlas(network.atlas_labels.numpy(), network.atlas_voxel_to_ras.numpy())
    atlas.write(folder / ATLAS_FILE)
    return file_sha256(folder / ATLAS_FILE)


def _read_compared(task: str, scans: Sequence[Path]) -> tuple[ImageBatch, LabelBatch | None]:
    if task == "anomaly":
        return read_slices(scans), None
    if task == "brain":
        return read_heads(scans), None
    return read_images(scans), read_labels(scans)


def _write_verified(
    folder: Path, spec: ModelSpec, images: ImageBatch, labels: LabelBatch | None
) -> ModelSpec:
    """Verify the model in the folder and write its spec there, with the results."""
    network, model = load_network(folder / WEIGHTS_FILE), Model(folder, spec)
    if spec.task == "anomaly":
        # An anomaly model without a threshold is an error.
        slice_threshold(spec)
    if spec.task != "parcellation":
        results = verify_scores(network, model, images)
    else:
        results = verify_labels(network, model, images, labels)
    spec = dataclasses.replace(spec, verification=results)
    spec.write(folder / SPEC_FILE)
    return spec


def _training_summary(values: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of the training run for the spec."""
    summary = {"recipe": values["recipe"], "hours": round(values["seconds"] / 3600, 3)}
    if "best_dice" in values:
        summary |= {
            "steps": values["step"],
            "best_step": values["best_step"],
            "best_validation_dice": round(values["best_dice"], 4),
        }
    elif values["history"]:
        best = min(values["history"], key=lambda row: row["validation_loss"])
        summary |= {
            "epochs": len(values["history"]),
            "best_epoch": int(best["epoch"]),
            "best_validation_loss": round(best["validation_loss"], 5),
        }
    return summary | {"exported": datetime.datetime.now(datetime.UTC).date().isoformat()}
