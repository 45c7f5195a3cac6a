"""ModelSpec: what training, export and serving agree on about one model.

It is the file spec.json beside every model: begun by the export from a
checkpoint, completed by verification, read by everything that runs a model. A
mismatch is an error, never a warning.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from neurobento.errors import ConfigError, SpecMismatch
from neurobento.files import file_sha256, write_atomically
from neurobento.imaging.geometry import NETWORK_SHAPE, SLICE_SHAPE
from neurobento.labels import CLASS_COUNT, aal116

__all__ = [
    "SPEC_FORMAT",
    "MODEL_TASKS",
    "ModelSpec",
    "ModelTask",
    "Tensor",
    "require_sha256",
    "require_task",
]

SPEC_FORMAT = 1
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

SLICE_PREPROCESSING = {
    "steps": [
        "one grey value per pixel",
        "the head alone, in the middle of a square",
        "Resize bilinear",
        "intensities to 0..1, the 99.5th percentile to 1",
    ],
    "version": 1,
}


@dataclass(frozen=True)
class Tensor:
    """What an exported graph takes or gives: its shape without the batch axis, and its type."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ModelTask:
    """What a model is for, which says what its graph takes and gives.

    Attributes
    ----------
    image
        Its input of that name.
    outputs
        By name, in the graph's order.
    preprocessing
        What images go through.
    classes, region_table_sha256
        Of the labels, if it gives any.
    """

    image: Tensor
    outputs: Mapping[str, Tensor]
    preprocessing: Mapping[str, Any]
    classes: int = 0
    region_table_sha256: str = ""


MODEL_TASKS: Mapping[str, ModelTask] = MappingProxyType(
    {
        "parcellation": ModelTask(
            Tensor((1, *NETWORK_SHAPE), "float32"),
            {"labels": Tensor(NETWORK_SHAPE, "uint8")},
            PREPROCESSING,
            CLASS_COUNT,
            aal116().sha256,
        ),
        "anomaly": ModelTask(
            Tensor((1, *SLICE_SHAPE), "float32"),
            {"score": Tensor((), "float32"), "error_map": Tensor(SLICE_SHAPE, "float32")},
            SLICE_PREPROCESSING,
        ),
    }
)


TASK_COMMANDS = {"parcellation": "parcellate", "anomaly": "anomaly"}


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
        A key of `MODEL_TASKS`.
    input_shape, output_shape
        Without the batch axis, which is free: of a parcellation image (1, X, Y, Z)
        float32 in [0, 1], RAS, and labels (X, Y, Z) uint8; of an anomaly image
        (1, 128, 128) float32 in [0, 1], and error map (128, 128) float32.
    classes
        Labels are 0..classes-1.
    region_table_sha256
        Of neurobento/data/aal116.tsv.
    preprocessing
        Steps and version the model was trained with.
    training, metrics, verification
        How it was made, how good it is, and how well the export agrees with
        PyTorch.
    detection
        Of an anomaly model: "threshold" of a slice's score, and the share of healthy slices
        above it, "false_positive_rate"; "scan_threshold" of a scan's, with the same share, if
        it was measured.
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
    detection: dict[str, float] = field(default_factory=dict)
    licence: str = ""

    @classmethod
    def of_task(cls, task: str, **values: Any) -> ModelSpec:
        """The spec of a model for a task, what the task says filled in."""
        known = MODEL_TASKS[task]
        return cls(
            task=task,
            input_shape=known.image.shape,
            output_shape=[*known.outputs.values()][-1].shape,
            classes=known.classes,
            region_table_sha256=known.region_table_sha256,
            preprocessing=dict(known.preprocessing),
            **values,
        )

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """What the graph gives, by name and in its order."""
        return MODEL_TASKS[self.task].outputs

    def write(self, path: Path) -> None:
        """Write spec.json, whole or not at all."""
        values = {"format": SPEC_FORMAT, **dataclasses.asdict(self)}
        write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())

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
            if values.pop("format") != SPEC_FORMAT:
                raise KeyError("format")
            for key in ("input_shape", "output_shape"):
                values[key] = tuple(values[key])
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SpecMismatch(
                subject=str(path),
                expected=f"a model spec of format {SPEC_FORMAT}",
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
        task = MODEL_TASKS.get(self.task, MODEL_TASKS["parcellation"])
        checks = {
            "SHA-256 of the ONNX file": (self.onnx_sha256, file_sha256(onnx)),
            "region table": (self.region_table_sha256, task.region_table_sha256),
            "task": (
                self.task,
                self.task if self.task in MODEL_TASKS else " or ".join(MODEL_TASKS),
            ),
            "network grid": (self.output_shape, [*task.outputs.values()][-1].shape),
            "input grid": (self.input_shape, task.image.shape),
            "number of classes": (self.classes, task.classes),
            "preprocessing version": (
                self.preprocessing.get("version"),
                task.preprocessing["version"],
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


def require_task(spec: ModelSpec, task: str) -> None:
    """Check that a model is for a task, a key of `neurobento.spec.MODEL_TASKS`.

    Raises
    ------
    ConfigError
        It is for another.
    """
    if spec.task != task:
        command = TASK_COMMANDS.get(spec.task)
        hint = f"; `neurobento {command}` runs this one" if command else ""
        raise ConfigError(
            subject="model",
            expected=f"a model for the task {task!r}",
            found=f"{spec.name!r}, for {spec.task!r}",
            remedy=f"Choose one that `neurobento models` lists for it{hint}.",
        )
