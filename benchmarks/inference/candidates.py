"""What runs against what: every model in every backend and precision, and the yardsticks."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurobento.backends import BACKENDS, DEVICES, Backend, BackendEntry, open_backend
from neurobento.backends.cuda import find_gpu
from neurobento.errors import BackendUnavailable, ConfigError, EngineMismatch
from neurobento.registry import Model, find_model, list_specs

__all__ = ["REFERENCE", "Candidate", "add_choices", "choose", "open_all", "yardstick_of"]

REFERENCE_MODEL = "unet"
REFERENCE = f"{REFERENCE_MODEL} pytorch fp32"
"""Report A's network the way report A ran it."""


@dataclass(frozen=True)
class Candidate:
    """One way to run one model."""

    model: Model
    backend: str
    precision: str

    @property
    def name(self) -> str:
        """Such as "compact openvino fp32"."""
        return f"{self.model.spec.name} {self.backend} {self.precision}"

    def facts(self) -> dict[str, Any]:
        """What an entry says of it."""
        return {
            "model": self.model.spec.name,
            "backend": self.backend,
            "precision": self.precision,
        }

    def open(self, threads: int, device: str = "auto") -> Backend:
        """Its backend with the model loaded; see `neurobento.backends.open_backend`."""
        return open_backend(
            self.model, self.backend, device=device, precision=self.precision, threads=threads
        )


def yardstick_of(model: str) -> str:
    """The candidate that a model's others are measured by: PyTorch eager in single precision."""
    return f"{model} pytorch fp32"


def add_choices(parser: argparse.ArgumentParser) -> None:
    """The options that say what is measured."""
    parser.set_defaults(task="parcellation")
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", help="default: all in models/ for what is measured"
    )
    parser.add_argument("--models-folder", type=Path, help="default: models/ of this clone")
    parser.add_argument("--backends", nargs="+", metavar="NAME", help=", ".join(BACKENDS))
    parser.add_argument("--precisions", nargs="+", metavar="NAME", help="default: all there are")
    parser.add_argument("--device", choices=("auto", *DEVICES), default="auto")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each candidate")


def choose(args: argparse.Namespace) -> list[Candidate]:
    """The candidates that the options of `add_choices` name, yardsticks first.

    PyTorch fp32 eager of each model is always among them, and of report A's U-Net
    where the folder of models holds one.

    Raises
    ------
    ConfigError
        There is no such backend, or no backend has such a precision.
    ModelNotFound
        There is no such model.
    """
    folder: Path | None = args.models_folder
    there_are = [spec.name for spec in list_specs(folder) if spec.task == args.task]
    names: list[str] = args.models or there_are
    measured = dict.fromkeys([*({REFERENCE_MODEL} & {*there_are}), *names])
    models = {name: find_model(name, folder) for name in measured}
    backends = _known("--backends", args.backends, BACKENDS)
    ways = {name: _precisions(BACKENDS[name], args.device) for name in BACKENDS}
    every = dict.fromkeys(precision for way in ways.values() for precision in way)
    precisions = _known("--precisions", args.precisions, every)
    yardsticks = [Candidate(model, "pytorch", "fp32") for model in models.values()]
    others = [
        Candidate(models[name], backend, precision)
        for name in names
        for backend in backends
        for precision in ways[backend]
        if precision in precisions
    ]
    return list({c.name: c for c in [*yardsticks, *others]}.values())


def open_all(
    candidates: Sequence[Candidate], threads: int, device: str = "auto"
) -> tuple[list[tuple[Candidate, Backend]], dict[str, str]]:
    """Those that can run here with their backends, and why each other one cannot."""
    opened, left_out = [], {}
    for candidate in candidates:
        try:
            opened.append((candidate, candidate.open(threads, device)))
        except (BackendUnavailable, EngineMismatch) as error:
            left_out[candidate.name] = error.message
            print(f"left out: {candidate.name}: {error.message}", flush=True)
    return opened, left_out


def _precisions(entry: BackendEntry, device: str) -> tuple[str, ...]:
    """What a backend computes in on a device; on "auto" it is the GPU where there is one."""
    served = entry.precisions
    if device == "auto":
        device = "cuda" if "cpu" not in served or ("cuda" in served and find_gpu()) else "cpu"
    return served.get(device, ())


def _known(option: str, wanted: Sequence[str] | None, there_are: Iterable[str]) -> list[str]:
    names = list(there_are)
    unknown = [name for name in wanted or () if name not in names]
    if unknown:
        raise ConfigError(
            subject=option,
            expected=f"some of {', '.join(names)}",
            found=", ".join(unknown),
            remedy="Choose among them, or leave the option out for all.",
        )
    return list(wanted or names)
