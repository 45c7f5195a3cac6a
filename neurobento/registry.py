"""Find the models on disk: a folder with one folder for each model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neurobento.default_models import DEFAULT_ANOMALY_MODEL, DEFAULT_MODEL
from neurobento.errors import BackendUnavailable, ModelNotFound, SpecMismatch
from neurobento.imaging.atlas import Atlas
from neurobento.spec import ModelSpec, require_sha256

__all__ = [
    "DEFAULT_ANOMALY_MODEL",
    "DEFAULT_MODEL",
    "Model",
    "find_model",
    "list_models",
    "list_specs",
    "model_tag",
    "models_folder",
    "open_model",
    "read_atlas",
]

ONNX_FILE, SPEC_FILE, WEIGHTS_FILE = "model.onnx", "spec.json", "weights.pt"
INT8_FILE, ATLAS_FILE = "model_int8.onnx", "atlas.npz"


@dataclass(frozen=True)
class Model:
    """A model on disk whose ONNX file has the hash that its spec states."""

    folder: Path
    spec: ModelSpec

    @property
    def onnx(self) -> Path:
        """The ONNX file."""
        return self.folder / ONNX_FILE

    def graph(self, precision: str) -> Path:
        """Return the ONNX file to compute a precision from, its hash checked."""
        if precision != "int8":
            return self.onnx
        path = self.folder / INT8_FILE
        if not self.spec.int8_sha256 or not path.is_file():
            raise BackendUnavailable(
                subject="precision",
                expected=f"an int8 form of {self.spec.name}, verified",
                found="no file" if self.spec.int8_sha256 else "none in its spec",
                remedy="Choose --precision fp32; `python -m export.quantise` makes one if it is "
                "good enough.",
            )
        require_sha256(path, self.spec.int8_sha256)
        return path

    def atlas(self) -> Atlas | None:
        """Return the atlas that the model's positions refer to, its hash checked, if there is one.

        ModelNotFound says that its file is missing.
        """
        if not self.spec.atlas_sha256:
            return None
        path = self.folder / ATLAS_FILE
        if not path.is_file():
            raise ModelNotFound(
                subject=str(path),
                expected=f"the atlas of {self.spec.name}",
                found="no such file",
                remedy="Take all files of a model from one release, or export again.",
            )
        require_sha256(path, self.spec.atlas_sha256)
        return Atlas.read(path)


def read_atlas(spec: ModelSpec, folder: Path | None = None) -> Atlas | None:
    """Return the atlas of a model in a folder of models, its hash checked; None if it has none."""
    return Model((folder or models_folder()) / spec.name, spec).atlas()


def models_folder() -> Path:
    """Return the models inside the installed package, or models/ beside it in a clone."""
    package = Path(__file__).resolve().parent
    packaged = package / "models"
    # looked at first: site-packages may hold somebody else's "models" beside this package
    return packaged if packaged.is_dir() else package.parent / "models"


def open_model(folder: Path) -> Model:
    """Return the model in a folder, its hash checked."""
    if not (folder / SPEC_FILE).is_file() or not (folder / ONNX_FILE).is_file():
        raise ModelNotFound(
            subject=str(folder),
            expected=f"{ONNX_FILE} and {SPEC_FILE}",
            found="a folder without them" if folder.is_dir() else "no such folder",
            remedy="Export a model with `python -m export.to_onnx`.",
        )
    spec = ModelSpec.read(folder / SPEC_FILE)
    spec.require_match(folder / ONNX_FILE)
    return Model(folder, spec)


def list_specs(folder: Path | None = None) -> list[ModelSpec]:
    """Return the specs in a folder of models, by name, without opening the models."""
    root = folder or models_folder()
    return [ModelSpec.read(path) for path in sorted(root.glob(f"*/{SPEC_FILE}"))]


def model_tag(spec: ModelSpec) -> str:
    """Return the tag in a BentoML model store: name and hash of the ONNX file, not metrics."""
    return f"neurobento-{spec.name}:{spec.onnx_sha256[:16]}"


def list_models(folder: Path | None = None) -> list[Model]:
    """Return all models in a folder of models, by name, their hashes checked."""
    root = _existing(folder or models_folder())
    return [open_model(spec.parent) for spec in sorted(root.glob(f"*/{SPEC_FILE}"))]


def _existing(root: Path) -> Path:
    if not root.is_dir():
        raise ModelNotFound(
            subject=str(root),
            expected="a folder of models",
            found="no such folder",
            remedy="Give a folder of models with --models, or install neurobento from its wheel.",
        )
    return root


def find_model(name: str, folder: Path | None = None) -> Model:
    """Return the model of a name, its hash checked."""
    root = _existing(folder or models_folder())
    names = sorted(spec.parent.name for spec in root.glob(f"*/{SPEC_FILE}"))
    if name not in names:
        raise ModelNotFound(
            subject="model",
            expected=f"one of {', '.join(names) or 'none (the folder is empty)'}",
            found=repr(name),
            remedy="Choose one of them; `neurobento models` lists them.",
        )
    model = open_model(root / name)
    if model.spec.name != name:
        raise SpecMismatch(
            subject=str(root / name),
            expected=f"a spec of the model {name!r}",
            found=repr(model.spec.name),
            remedy="Call the folder as its model is called.",
        )
    return model
