"""The candidates of a benchmark: every model in every backend and precision."""

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

__all__ = ["REFERENCE", "Candidate", "add_choices", "choose_candidates", "open_all", "yardstick_of"]

REFERENCE_MODEL = "unet"
REFERENCE = f"{REFERENCE_MODEL} pytorch fp32"
"""Report A's network as report A ran it."""


@dataclass(frozen=True)
class Candidate:
    """One model in one backend and precision."""

    model: Model
    backend: str
    precision: str

    @property
    def name(self) -> str:
        """The name of the candidate, such as "compact openvino fp32"."""
        return f"{self.model.spec.name} {self.backend} {self.precision}"

    def facts(self) -> dict[str, Any]:
        """Return the facts of its entry."""
        return {"model": self.model.spec.name, "backend": self.backend, "precision": self.precision}

    def open(self, threads: int, device: str = "auto") -> Backend:
        """Return its backend with the model loaded."""
        return open_backend(
            self.model, self.backend, device=device, precision=self.precision, threads=threads
        )


def yardstick_of(model: str) -> str:
    """Return the candidate that others of a model are compared with: PyTorch fp32 eager."""
    return f"{model} pytorch fp32"


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the candidates."""
    parser.set_defaults(task="parcellation")
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", help="default: all in models/ for this task"
    )
    parser.add_argument("--models-folder", type=Path, help="default: models/ of this clone")
    parser.add_argument("--backends", nargs="+", metavar="NAME", help=", ".join(BACKENDS))
    parser.add_argument("--precisions", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--device", choices=("auto", *DEVICES), default="auto")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each candidate")


def choose_candidates(args: argparse.Namespace) -> list[Candidate]:
    """Return the candidates that the options of `add_choices` name, yardsticks first.

    Raises ConfigError for an unknown backend or precision.
    """
    folder: Path | None = args.models_folder
    available = [spec.name for spec in list_specs(folder) if spec.task == args.task]
    names: list[str] = args.models or available
    measured = dict.fromkeys([*({REFERENCE_MODEL} & {*available}), *names])
    models = {name: find_model(name, folder) for name in measured}
    backends = _chosen_names("--backends", args.backends, BACKENDS)
    precisions_of = {name: _precisions(BACKENDS[name], args.device) for name in BACKENDS}
    every = dict.fromkeys(precision for each in precisions_of.values() for precision in each)
    precisions = _chosen_names("--precisions", args.precisions, every)
    yardsticks = [Candidate(model, "pytorch", "fp32") for model in models.values()]
    others = [
        Candidate(models[name], backend, precision)
        for name in names
        for backend in backends
        for precision in precisions_of[backend]
        if precision in precisions
    ]
    return list({c.name: c for c in [*yardsticks, *others]}.values())


def open_all(
    candidates: Sequence[Candidate], threads: int, device: str = "auto"
) -> tuple[list[tuple[Candidate, Backend]], dict[str, str]]:
    """Return the candidates that can run here, and for each other one the reason."""
    opened, left_out = [], {}
    for candidate in candidates:
        try:
            opened.append((candidate, candidate.open(threads, device)))
        except (BackendUnavailable, EngineMismatch) as error:
            left_out[candidate.name] = error.message
            print(f"left out: {candidate.name}: {error.message}", flush=True)
    return opened, left_out


def _precisions(entry: BackendEntry, device: str) -> tuple[str, ...]:
    """Return a backend's precisions on a device; "auto" is the GPU if there is one."""
    served = entry.precisions
    if device == "auto":
        device = "cuda" if "cpu" not in served or ("cuda" in served and find_gpu()) else "cpu"
    return served.get(device, ())


def _chosen_names(option: str, wanted: Sequence[str] | None, available: Iterable[str]) -> list[str]:
    names = list(available)
    unknown = [name for name in wanted or () if name not in names]
    if unknown:
        raise ConfigError(
            subject=option,
            expected=f"any of {', '.join(names)}",
            found=", ".join(unknown),
            remedy="Choose among them, or omit the option for all.",
        )
    return list(wanted or names)
