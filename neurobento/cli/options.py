"""Options that several commands share, and the model that they choose."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from neurobento.cores import usable_cores
from neurobento.preprocessing.mode import PREPROCESSINGS
from neurobento.preprocessing.threads import limit_threads

if TYPE_CHECKING:
    from neurobento.backends.base import Backend

__all__ = [
    "Commands",
    "Container",
    "add_file_options",
    "add_model_options",
    "add_models_option",
    "add_preprocessing_option",
    "backend_opener",
]

# Takes the parser of each command
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

# A command's parser, or a group of its options
Container: TypeAlias = "argparse.ArgumentParser | argparse._ArgumentGroup"


def add_file_options(command: Container, metavar: str, formats: str, model: str) -> None:
    """Add the input files, the output folder, and the name of the model."""
    command.add_argument("file", type=Path, nargs="+", metavar=metavar, help=formats)
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder to write to"
    )
    command.add_argument(
        "--model", metavar="NAME", default=model, help=f"model to run; default: {model}"
    )


def add_preprocessing_option(command: argparse.ArgumentParser) -> None:
    """Add how much preprocessing the scans need."""
    command.add_argument(
        "--preprocessing",
        choices=PREPROCESSINGS,
        default="full",
        help="full (default): scans with skull; stripped: brains without skull; "
        "none: images already on the network grid; report_a: scans with skull, by report A's nine "
        "steps, for models that were trained on them",
    )


def add_models_option(command: Container) -> None:
    """Add the folder in which to look for models."""
    command.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="folder of models; default: the installed ones",
    )


def add_model_options(command: Container, default_threads: str) -> None:
    """Add how to run the model on this machine."""
    add_models_option(command)
    command.add_argument(
        "--backend",
        metavar="NAME",
        help="auto (default), openvino, onnxruntime, onnxruntime-tensorrt, tensorrt, "
        "tensorrt-rtx, pytorch or pytorch-compiled",
    )
    command.add_argument("--device", metavar="NAME", help="auto (default), cpu or cuda")
    command.add_argument(
        "--precision",
        metavar="NAME",
        help="auto (default), fp32, fp16, bf16 or int8; not every backend has all of them",
    )
    command.add_argument(
        "--threads", type=int, metavar="COUNT", help=f"CPU threads; default: {default_threads}"
    )


def backend_opener(args: argparse.Namespace, task: str) -> Callable[[], Backend]:
    """Return a function that opens the chosen model on its first call and keeps it."""
    threads = usable_cores() if args.threads is None else args.threads
    limit_threads(threads)

    @functools.cache
    def backend() -> Backend:
        from neurobento.backends import open_backend
        from neurobento.registry import find_model
        from neurobento.spec import require_task

        model = find_model(args.model, args.models)
        require_task(model.spec, task)
        return open_backend(
            model,
            args.backend or "auto",
            device=args.device or "auto",
            precision=args.precision or "auto",
            threads=threads,
        )

    return backend
