"""ModelSpec: what training, export and serving agree on about one model.

It is the file spec.json beside every model: begun by the export from a
checkpoint, completed by verification, read by everything that runs a model. A
mismatch is an error, never a warning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurobento.errors import SpecMismatch
from neurobento.geometry import NETWORK_SHAPE
from neurobento.labels import CLASS_COUNT, aal116
from neurobento.scan import write_whole

__all__ = ["FORMAT", "ModelSpec", "file_sha256", "require_sha256"]

FORMAT = 1
"""Version of spec.json."""

PREPROCESSING = {
    "steps": [
        "skull_stripping (ROBEX)",
        "bias_correction (N4 in the brain mask)",
        "Spacing 1 mm bilinear",
        "Orientation RAS",
        "HistogramNormalize",
        "ScaleIntensity 0..1",
        "CropForeground",
        "SetOriginToZeroWithANTs",
        "Resize area",
    ],
    "version": 1,
}
"""What the image went through; `version` grows when a step changes its result."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_sha256(path: Path, expected: str) -> None:
    """Check that a file of a model is the one its spec names.

    Raises
    ------
    SpecMismatch
        Its hash differs.
    """
    found = file_sha256(path)
    if found != expected:
        raise SpecMismatch(
            subject=str(path),
            expected=f"SHA-256 {expected}, as spec.json says",
            found=found,
            remedy="Take all files of a model from one release, or export again.",
        )


@dataclass(frozen=True)
class ModelSpec:
    """The contract of one model.

    Attributes
    ----------
    name, version
        "compact", "1.0.0".
    network
        Preset of `neurobento.networks`.
    onnx_sha256, checkpoint_sha256, weights_sha256
        Of model.onnx, of the checkpoint it was exported from, and of
        weights.pt, the weights of that checkpoint for PyTorch.
    int8_sha256
        Of model_int8.onnx, if the model is offered in int8.
    opset
        ONNX operator set of the graph.
    task
        "parcellation".
    input_shape, output_shape
        Without the batch axis, which is free: image (1, X, Y, Z) float32 in
        [0, 1], RAS; labels (X, Y, Z) uint8.
    classes
        Labels are 0..classes-1.
    region_table_sha256
        Of neurobento/data/aal116.tsv.
    preprocessing
        Steps and version the model was trained with.
    training, metrics, verification
        How it was made, how good it is, and how well the export agrees with
        PyTorch.
    licence
        Notes on the data behind the weights.
    """

    name: str
    version: str
    network: str
    onnx_sha256: str
    checkpoint_sha256: str
    opset: int
    weights_sha256: str = ""
    int8_sha256: str = ""
    task: str = "parcellation"
    input_shape: tuple[int, ...] = (1, *NETWORK_SHAPE)
    output_shape: tuple[int, ...] = NETWORK_SHAPE
    classes: int = CLASS_COUNT
    region_table_sha256: str = field(default_factory=lambda: aal116().sha256)
    preprocessing: dict[str, Any] = field(default_factory=lambda: dict(PREPROCESSING))
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    verification: dict[str, Any] = field(default_factory=dict)
    licence: str = ""

    def write(self, path: Path) -> None:
        """Write spec.json, whole or not at all."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        write_whole(path, (json.dumps(values, indent=2) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> ModelSpec:
        """The spec in a file.

        Raises
        ------
        SpecMismatch
            It is not a spec of this format.
        """
        try:
            values = json.loads(path.read_text())
            if values.pop("format") != FORMAT:
                raise KeyError("format")
            for key in ("input_shape", "output_shape"):
                values[key] = tuple(values[key])
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SpecMismatch(
                subject=str(path),
                expected=f"a model spec of format {FORMAT}",
                found=type(error).__name__,
                remedy="Export the model again with `python -m export.to_onnx`.",
            ) from None

    def require_match(self, onnx: Path) -> None:
        """Check that a model file is the one this spec describes, for this program.

        Raises
        ------
        SpecMismatch
            Its hash differs, or it was made for other regions, another grid
            or another preprocessing.
        """
        checks = {
            "SHA-256 of the ONNX file": (self.onnx_sha256, file_sha256(onnx)),
            "region table": (self.region_table_sha256, aal116().sha256),
            "task": (self.task, "parcellation"),
            "network grid": (self.output_shape, NETWORK_SHAPE),
            "input grid": (self.input_shape, (1, *NETWORK_SHAPE)),
            "number of classes": (self.classes, CLASS_COUNT),
            "preprocessing version": (
                self.preprocessing.get("version"),
                PREPROCESSING["version"],
            ),
        }
        for what, (expected, found) in checks.items():
            if expected != found:
                raise SpecMismatch(
                    subject=str(onnx),
                    expected=f"{what} {expected}, as spec.json says",
                    found=str(found),
                    remedy="Take model.onnx and spec.json from one release, or export again.",
                )
