"""TensorRT engines on disk: what each was built for, where it lies, and whether it may be loaded.

An engine is code that the GPU runs, so it is loaded only from a folder that nobody else may
write to, and only if it is byte for byte the one that its sidecar describes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from neurobento.backends.cuda import Gpu
from neurobento.environment import engines_folder
from neurobento.errors import EngineMismatch
from neurobento.files import write_atomically
from neurobento.registry import Model

__all__ = [
    "FLAVOURS",
    "PRECISIONS",
    "PROFILE",
    "RECIPE",
    "EngineFacts",
    "engine_folder",
    "find_engine",
    "gpu_target",
    "private_folder",
    "read_engine",
    "read_facts",
    "write_engine",
    "write_private",
]

FLAVOURS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Flavour -> its module: the one for all NVIDIA GPUs, and the one for GeForce and RTX."""

PRECISIONS = ("fp32", "fp16", "bf16")

PROFILE = (1, 1, 8)
"""Least, best and largest batch; all other axes of the graph are fixed."""

RECIPE = 1
"""What `export.to_tensorrt` does to the graph and its flags; raised whenever it changes."""

SIDECAR_FORMAT = 1
ENGINE_FILE, SIDECAR_FILE = "engine.plan", "engine.json"
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
REBUILD = "Remove the folder and build the engine again with `python -m export.to_tensorrt`."


@dataclass(frozen=True)
class EngineFacts:
    """What an engine was built from, by what and for which GPUs: its sidecar.

    Attributes
    ----------
    flavour, library
        A key of `FLAVOURS` and that library's version.
    targets
        `gpu_target` of every GPU it runs on.
    precision
        One of `PRECISIONS`.
    profile
        Least, best and largest batch.
    onnx_sha256, engine_sha256
        Of the model it was built from and of the engine itself.
    recipe
        `RECIPE` as it was when it was built.
    """

    flavour: str
    library: str
    targets: tuple[str, ...]
    precision: str
    profile: tuple[int, ...]
    onnx_sha256: str
    recipe: int
    engine_sha256: str = ""

    @property
    def key(self) -> str:
        """16 hexadecimal digits that stand for all facts but the engine itself."""
        values = dataclasses.asdict(dataclasses.replace(self, engine_sha256=""))
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, wanted: EngineFacts) -> list[str]:
        """In what this engine is not what is wanted; nothing if it will do."""
        found = []
        for name in ("flavour", "library", "precision", "profile", "onnx_sha256", "recipe"):
            is_, should = getattr(self, name), getattr(wanted, name)
            if is_ != should:
                found.append(f"{name} {_short(is_)} instead of {_short(should)}")
        if not set(wanted.targets) <= set(self.targets):
            found.append(f"for {', '.join(self.targets)} instead of {', '.join(wanted.targets)}")
        return found


def _short(value: object) -> str:
    return str(value)[:16]


def gpu_target(flavour: str, gpu: Gpu) -> str:
    """What an engine of a flavour is built for: a compute capability, or one kind of GPU."""
    sm = f"sm_{gpu.capability.replace('.', '')}"
    return sm if flavour == "tensorrt-rtx" else f"{gpu.name} {sm}"


def private_folder(path: Path) -> Path:
    """A folder that nobody else may write to, made if it is not there.

    Raises
    ------
    EngineMismatch
        Others may write to it.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    _require_private(path)
    return path


def engine_folder(model: Model, facts: EngineFacts, root: Path | None = None) -> Path:
    """Where an engine of these facts lies or would lie.

    Raises
    ------
    EngineMismatch
        Others may write there.
    """
    folder = (root or engines_folder()) / model.spec.name / facts.key
    if folder.exists():
        _require_private(folder)
    return folder


def write_engine(model: Model, facts: EngineFacts, engine: bytes, root: Path | None = None) -> Path:
    """Keep an engine and its sidecar; returns their folder, which its facts name.

    Raises
    ------
    EngineMismatch
        Others may write where it would lie.
    """
    folder = private_folder(engine_folder(model, facts, root))
    facts = dataclasses.replace(facts, engine_sha256=hashlib.sha256(engine).hexdigest())
    write_private(folder / ENGINE_FILE, engine)
    values = {"format": SIDECAR_FORMAT, "model": model.spec.name, **dataclasses.asdict(facts)}
    # last, so that an engine without a sidecar is one whose writing was cut off
    write_private(folder / SIDECAR_FILE, (json.dumps(values, indent=2) + "\n").encode())
    return folder


def write_private(path: Path, content: bytes) -> None:
    """Write a file that is its owner's alone, whole or not at all."""
    write_atomically(path, content)
    # whatever the umask lets others do
    path.chmod(0o600)


def read_facts(folder: Path) -> EngineFacts:
    """The sidecar in an engine's folder.

    Raises
    ------
    EngineMismatch
        It is not a sidecar of this format.
    """
    try:
        values = json.loads((folder / SIDECAR_FILE).read_text())
        if values.pop("format") != SIDECAR_FORMAT:
            raise KeyError("format")
        del values["model"]
        for name in ("targets", "profile"):
            values[name] = tuple(values[name])
        return EngineFacts(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineMismatch(
            subject=str(folder / SIDECAR_FILE),
            expected=f"an engine's sidecar of format {SIDECAR_FORMAT}",
            found=type(error).__name__,
            remedy=REBUILD,
        ) from None


def find_engine(model: Model, wanted: EngineFacts, root: Path | None = None) -> Path:
    """The folder of an engine of a model that does what is wanted.

    Raises
    ------
    EngineMismatch
        There is none; the message says in what the nearest one differs and
        how to build it.
    """
    built = _built(model, root or engines_folder())
    differences = {folder: facts.differences(wanted) for folder, facts in built.items()}
    nearest = min(differences, key=lambda folder: len(differences[folder]), default=None)
    if nearest is not None and not differences[nearest]:
        return nearest
    raise EngineMismatch(
        subject=f"{model.spec.name} on {wanted.flavour}",
        expected=f"an engine in {wanted.precision} for {', '.join(wanted.targets)}, "
        f"built by {wanted.flavour} {wanted.library} from this model",
        found="one that differs: " + "; ".join(differences[nearest]) if nearest else "none",
        remedy=f"Build it: `python -m export.to_tensorrt models/{model.spec.name} "
        f"--flavour {wanted.flavour} --precision {wanted.precision}`.",
    )


def _built(model: Model, root: Path) -> dict[Path, EngineFacts]:
    """Folders of a model's engines with what each was built for; broken sidecars left out."""
    built = {}
    for sidecar in sorted((root / model.spec.name).glob(f"*/{SIDECAR_FILE}")):
        with contextlib.suppress(EngineMismatch):
            built[sidecar.parent] = read_facts(sidecar.parent)
    return built


def read_engine(folder: Path) -> bytes:
    """An engine whose bytes are those its sidecar names.

    Raises
    ------
    EngineMismatch
        Others may write to it, or it is not the engine of its sidecar.
    """
    for path in (folder, folder / ENGINE_FILE, folder / SIDECAR_FILE):
        _require_private(path)
    expected = read_facts(folder).engine_sha256
    engine = (folder / ENGINE_FILE).read_bytes()
    found = hashlib.sha256(engine).hexdigest()
    if found != expected:
        raise EngineMismatch(
            subject=str(folder / ENGINE_FILE),
            expected=f"SHA-256 {_short(expected)} as its sidecar says",
            found=_short(found),
            remedy=REBUILD,
        )
    return engine


def _require_private(path: Path) -> None:
    """Refuse what another user owns or may write to."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise EngineMismatch(
            subject=str(path),
            expected="an engine and its sidecar",
            found="no such file",
            remedy="Build it with `python -m export.to_tensorrt`.",
        ) from None
    if status.st_uid not in (0, os.getuid()) or status.st_mode & WRITABLE_BY_OTHERS:
        raise EngineMismatch(
            subject=str(path),
            expected="a place that only its owner may write to",
            found=f"mode {stat.S_IMODE(status.st_mode):o}, owner {status.st_uid}",
            remedy="Engines run as code: `chmod -R go-w` the folder, or choose another "
            "with NEUROBENTO_ENGINES.",
        )
