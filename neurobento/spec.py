"""The contract of a model between training, export and serving: spec.json beside its files.

The export creates it, verification completes it; a mismatch is an error, never a warning.
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
from neurobento.files import describe_read_failure, file_sha256, write_atomically
from neurobento.imaging.geometry import FINDER_SHAPE, MAP_SHAPE, NETWORK_SHAPE, SLICE_SHAPE
from neurobento.labels import CLASS_COUNT, aal116

__all__ = [
    "MODEL_TASKS",
    "REPORT_A_VERSION",
    "SCAN_PREPROCESSING",
    "SPEC_FORMAT",
    "ModelSpec",
    "ModelTask",
    "Tensor",
    "require_sha256",
    "require_task",
]

SPEC_FORMAT = 1
"""Version of spec.json."""

REPORT_A_VERSION = 1
"""The version of report A's nine steps among those of `SCAN_PREPROCESSING`."""

SCAN_PREPROCESSING: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        REPORT_A_VERSION: (
            "skull_stripping (ROBEX)",
            "bias_correction (N4 in the brain mask)",
            "Spacing 1 mm bilinear",
            "Orientation RAS",
            "HistogramNormalize",
            "ScaleIntensity 0..1",
            "CropForeground",
            "SetOriginToZeroWithANTs",
            "Resize area",
        ),
        2: (
            "background to 0",
            "brain (a network of this repository)",
            "field of view along the world's axes, from the brain's centre of mass and spread",
            "resampling that averages",
            "ranks of the intensities in the brain, 0..1",
        ),
    }
)
"""Version -> the steps that make a parcellation network's image.

Add a version when a step changes its result; a model states its own.
"""

SLICE_PREPROCESSING: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        1: (
            "one grey value per pixel",
            "the head alone, in the middle of a square",
            "Resize bilinear",
            "intensities to 0..1, the 99.5th percentile to 1",
        )
    }
)

HEAD_PREPROCESSING: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        1: (
            "background to 0",
            "grid along the world's axes, around the head",
            "resampling that averages",
            "intensities to 0..1, the 99.5th percentile to 1",
        )
    }
)


@dataclass(frozen=True)
class Tensor:
    """The shape without the batch axis, and the type, of a graph's input or output."""

    shape: tuple[int, ...]
    dtype: str


POSITIONS = Tensor((3, *MAP_SHAPE), "float32")
"""Places of blocks of `MAP_BLOCK` voxels in the world of the atlas, RAS in mm."""


@dataclass(frozen=True)
class ModelTask:
    """A task that models are trained for, and the interface of their graphs."""

    # The graph's input, which is called "image".
    image: Tensor
    # By name, in the graph's order.
    outputs: Mapping[str, Tensor]
    # Version -> the steps that make the image.
    preprocessing: Mapping[int, tuple[str, ...]]
    # The labels, if the graph gives any.
    classes: int = 0
    region_table_sha256: str = ""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the last output, which is the map over the image."""
        return [*self.outputs.values()][-1].shape

    def describe_preprocessing(self, version: int) -> dict[str, Any]:
        """Return a version's steps as spec.json has them."""
        return {"steps": list(self.preprocessing[version]), "version": version}


MODEL_TASKS: Mapping[str, ModelTask] = MappingProxyType(
    {
        "parcellation": ModelTask(
            image=Tensor((1, *NETWORK_SHAPE), "float32"),
            outputs={"labels": Tensor(NETWORK_SHAPE, "uint8")},
            preprocessing=SCAN_PREPROCESSING,
            classes=CLASS_COUNT,
            region_table_sha256=aal116().sha256,
        ),
        "anomaly": ModelTask(
            image=Tensor((1, *SLICE_SHAPE), "float32"),
            outputs={"score": Tensor((), "float32"), "error_map": Tensor(SLICE_SHAPE, "float32")},
            preprocessing=SLICE_PREPROCESSING,
        ),
        "brain": ModelTask(
            image=Tensor((1, *FINDER_SHAPE), "float32"),
            outputs={
                "brain": Tensor(FINDER_SHAPE, "float32"),
                "tissues": Tensor(FINDER_SHAPE, "uint8"),
            },
            preprocessing=HEAD_PREPROCESSING,
        ),
    }
)


TASK_COMMANDS = {"parcellation": "parcellate", "anomaly": "anomaly"}
"""The `neurobento` command that runs a model of a task."""


def require_sha256(path: Path, expected: str) -> None:
    """Raise SpecMismatch unless a model's file has the hash that its spec names."""
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
    """The contract of one model."""

    # Such as "compact" and "1.0.0".
    name: str
    version: str
    # A preset of `neurobento.networks`.
    network: str
    # Hashes of model.onnx and of the checkpoint that it was exported from.
    onnx_sha256: str
    checkpoint_sha256: str
    # ONNX operator set of the graph.
    opset: int
    # Hash of weights.pt, the checkpoint's weights for PyTorch.
    weights_sha256: str = ""
    # Hash of model_int8.onnx, if the model is offered in int8.
    int8_sha256: str = ""
    # Hash of atlas.npz, if the graph gives each block's position in an atlas besides labels.
    atlas_sha256: str = ""
    # A key of `MODEL_TASKS`.
    task: str = "parcellation"
    # Shapes without the batch axis, which is free: of the image, float32 in [0, 1], and of the
    # labels (uint8, RAS) or the error map (float32).
    input_shape: tuple[int, ...] = (1, *NETWORK_SHAPE)
    output_shape: tuple[int, ...] = NETWORK_SHAPE
    # Labels are 0..classes-1.
    classes: int = CLASS_COUNT
    # Hash of neurobento/data/aal116.tsv.
    region_table_sha256: str = field(default_factory=lambda: aal116().sha256)
    # Steps and version that the model was trained with.
    preprocessing: dict[str, Any] = field(
        default_factory=lambda: MODEL_TASKS["parcellation"].describe_preprocessing(REPORT_A_VERSION)
    )
    # How the model was made, how good it is, and how well its exports agree with PyTorch.
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    verification: dict[str, Any] = field(default_factory=dict)
    # For anomalies: the "threshold" of a slice's score, the share of healthy slices above it,
    # "false_positive_rate", and "scan_threshold", a scan's with the same share, if measured.
    detection: dict[str, float] = field(default_factory=dict)
    # Notes on the data behind the weights.
    licence: str = ""

    @classmethod
    def of_task(cls, task: str, *, preprocessing_version: int = 1, **values: Any) -> ModelSpec:
        """Return the spec of a model with the fields that its task decides."""
        contract = MODEL_TASKS[task]
        return cls(
            task=task,
            input_shape=contract.image.shape,
            output_shape=contract.output_shape,
            classes=contract.classes,
            region_table_sha256=contract.region_table_sha256,
            preprocessing=contract.describe_preprocessing(preprocessing_version),
            **values,
        )

    @property
    def preprocessing_version(self) -> int:
        """The version of the steps that make the model's image."""
        return int(self.preprocessing["version"])

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """The graph's outputs by name, in its order."""
        outputs = MODEL_TASKS[self.task].outputs
        return {**outputs, "positions": POSITIONS} if self.atlas_sha256 else outputs

    @property
    def answer(self) -> str:
        """The name of the output that a parcellation is made from."""
        return [*self.outputs][-1]

    def write(self, path: Path) -> None:
        """Write spec.json whole or not at all."""
        values = {"format": SPEC_FORMAT, **dataclasses.asdict(self)}
        write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> ModelSpec:
        """Return the spec in a file, or raise SpecMismatch if it has another format."""
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
                found=describe_read_failure(error),
                remedy="Export the model again with `python -m export.to_onnx`.",
            ) from None

    def require_match(self, onnx: Path) -> None:
        """Raise SpecMismatch unless this spec describes the model file and fits this program."""
        task = MODEL_TASKS.get(self.task, MODEL_TASKS["parcellation"])
        checks = {
            "SHA-256 of the ONNX file": (self.onnx_sha256, file_sha256(onnx)),
            "region table": (self.region_table_sha256, task.region_table_sha256),
            "task": (
                self.task,
                self.task if self.task in MODEL_TASKS else " or ".join(MODEL_TASKS),
            ),
            "network grid": (self.output_shape, task.output_shape),
            "input grid": (self.input_shape, task.image.shape),
            "number of classes": (self.classes, task.classes),
            "preprocessing version": (
                version := self.preprocessing.get("version"),
                version
                if version in tuple(task.preprocessing)
                else " or ".join(map(str, task.preprocessing)),
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
    """Raise ConfigError unless the model is for the task, a key of `MODEL_TASKS`."""
    if spec.task != task:
        command = TASK_COMMANDS.get(spec.task)
        hint = f"; `neurobento {command}` runs this one" if command else ""
        raise ConfigError(
            subject="model",
            expected=f"a model for the task {task!r}",
            found=f"{spec.name!r}, for {spec.task!r}",
            remedy=f"Choose one that `neurobento models` lists for it{hint}.",
        )
