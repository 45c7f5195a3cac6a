"""Store TensorRT engines on disk, find the right one and load it safely.

An engine is code for the GPU: its folder must be closed to other users and its hash the sidecar's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from neurobento.backends.cuda import Gpu
from neurobento.environment import engines_folder
from neurobento.errors import EngineMismatch
from neurobento.files import describe_read_failure, hold_folder, write_atomically
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
"""Flavour -> module: one for all NVIDIA GPUs, one for GeForce and RTX."""

PRECISIONS = ("fp32", "fp16", "bf16")

PROFILE = (1, 1, 8)
"""Smallest, optimal and largest batch; all other axes of the graph are fixed."""

RECIPE = 1
"""Version of the steps and flags in `export.to_tensorrt`; raise it when they change."""

SIDECAR_FORMAT = 1
ENGINE_FILE, SIDECAR_FILE = "engine.plan", "engine.json"
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
REBUILD = "Remove the folder and build the engine again with `python -m export.to_tensorrt`."


@dataclass(frozen=True)
class EngineFacts:
    """The sidecar of an engine: its model, builder, options and GPUs."""

    # A key of `FLAVOURS`, and that library's version.
    flavour: str
    library: str
    # `gpu_target` of every GPU that the engine runs on.
    targets: tuple[str, ...]
    precision: str
    # The batch sizes, as in `PROFILE`.
    profile: tuple[int, ...]
    # Hash of the model that the engine was built from.
    onnx_sha256: str
    # `RECIPE` at the time of the build.
    recipe: int
    engine_sha256: str = ""

    @property
    def key(self) -> str:
        """A hash, 16 hexadecimal digits, of all facts except the engine's own hash."""
        values = dataclasses.asdict(dataclasses.replace(self, engine_sha256=""))
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, wanted: EngineFacts) -> list[str]:
        """Return how this engine differs from the wanted one; empty if it fits."""
        differences = []
        for name in ("flavour", "library", "precision", "profile", "onnx_sha256", "recipe"):
            actual, expected = getattr(self, name), getattr(wanted, name)
            if actual != expected:
                differences.append(f"{name} {_short(actual)} instead of {_short(expected)}")
        if not set(wanted.targets) <= set(self.targets):
            actual, expected = ", ".join(self.targets), ", ".join(wanted.targets)
            differences.append(f"for {actual} instead of {expected}")
        return differences


def _short(value: object) -> str:
    return str(value)[:16]


def gpu_target(flavour: str, gpu: Gpu) -> str:
    """Return the target of an engine: a compute capability for RTX, else one GPU model."""
    sm = f"sm_{gpu.capability.replace('.', '')}"
    return sm if flavour == "tensorrt-rtx" else f"{gpu.name} {sm}"


def private_folder(path: Path) -> Path:
    """Return the folder, created if needed; raise EngineMismatch if others can write to it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    _require_private(path)
    return path


def engine_folder(model: Model, facts: EngineFacts, root: Path | None = None) -> Path:
    """Return the folder for an engine; raise EngineMismatch if others can write to it."""
    folder = (root or engines_folder()) / model.spec.name / facts.key
    if folder.exists():
        _require_private(folder)
    return folder


def write_engine(model: Model, facts: EngineFacts, engine: bytes, root: Path | None = None) -> Path:
    """Write an engine and its sidecar to a private folder, and return the folder."""
    folder = private_folder(engine_folder(model, facts, root))
    facts = dataclasses.replace(facts, engine_sha256=hashlib.sha256(engine).hexdigest())
    values = {"format": SIDECAR_FORMAT, "model": model.spec.name, **dataclasses.asdict(facts)}
    # no two builds are the same: one must not put its engine beside the other's sidecar
    with hold_folder(folder, wait=True):
        write_private(folder / ENGINE_FILE, engine)
        # The sidecar comes last: an engine without one was not written to the end.
        write_private(folder / SIDECAR_FILE, (json.dumps(values, indent=2) + "\n").encode())
    return folder


def write_private(path: Path, content: bytes) -> None:
    """Write a file for its owner alone, whole or not at all."""
    write_atomically(path, content)
    # The umask may grant others more.
    path.chmod(0o600)


def read_facts(folder: Path) -> EngineFacts:
    """Return the sidecar in an engine's folder; raise EngineMismatch if it has another format."""
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
            found=describe_read_failure(error),
            remedy=REBUILD,
        ) from None


def find_engine(model: Model, wanted: EngineFacts, root: Path | None = None) -> Path:
    """Return the folder of an engine with the wanted facts; the error names the nearest one."""
    engines = _read_sidecars(model, root or engines_folder())
    differences = {folder: facts.differences(wanted) for folder, facts in engines.items()}
    nearest = min(differences, key=lambda folder: len(differences[folder]), default=None)
    if nearest is not None and not differences[nearest]:
        return nearest
    raise EngineMismatch(
        subject=f"{model.spec.name} on {wanted.flavour}",
        expected=f"an engine in {wanted.precision} for {', '.join(wanted.targets)}, "
        f"built by {wanted.flavour} {wanted.library} from this model",
        found="another engine: " + "; ".join(differences[nearest]) if nearest else "no engine",
        remedy=f"Build it: `python -m export.to_tensorrt models/{model.spec.name} "
        f"--flavour {wanted.flavour} --precision {wanted.precision}`.",
    )


def _read_sidecars(model: Model, root: Path) -> dict[Path, EngineFacts]:
    """Return folder -> sidecar of a model's engines, without the broken sidecars."""
    engines = {}
    for sidecar in sorted((root / model.spec.name).glob(f"*/{SIDECAR_FILE}")):
        with contextlib.suppress(EngineMismatch):
            engines[sidecar.parent] = read_facts(sidecar.parent)
    return engines


def read_engine(folder: Path) -> bytes:
    """Return an engine's bytes if it is private and has the hash in its sidecar."""
    for path in (folder, folder / ENGINE_FILE, folder / SIDECAR_FILE):
        _require_private(path)
    with hold_folder(folder, wait=True):
        expected = read_facts(folder).engine_sha256
        engine = (folder / ENGINE_FILE).read_bytes()
    found = hashlib.sha256(engine).hexdigest()
    if found != expected:
        raise EngineMismatch(
            subject=str(folder / ENGINE_FILE),
            expected=f"SHA-256 {_short(expected)} as its sidecar says",
            found=f"SHA-256 {_short(found)}",
            remedy=REBUILD,
        )
    return engine


def _require_private(path: Path) -> None:
    """Raise EngineMismatch if another user owns the path or can write to it."""
    if not hasattr(os, "getuid"):
        raise EngineMismatch(
            subject=str(path),
            expected="a system that shows who can write to a file",
            found=sys.platform,
            remedy="Engines run as code: choose another backend.",
        )
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
            expected="a file or folder that only this user can write to",
            found=f"mode {stat.S_IMODE(status.st_mode):o}, owner {status.st_uid}",
            remedy="Engines run as code: `chmod -R go-w` the folder, or choose another "
            "with NEUROBENTO_ENGINES.",
        )
