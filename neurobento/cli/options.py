"""What the commands that run a model on files share: their options, and the model itself."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from neurobento.preprocessing.mode import Progress
from neurobento.preprocessing.threads import limit_threads

if TYPE_CHECKING:
    from neurobento.backends.base import Backend

__all__ = ["Opener", "Work", "add_file_options", "add_model_options", "local_backend"]

Work = Callable[[Path], tuple[dict[str, bytes], list[str]]]
"""A file's output files, by name, and the warnings about them."""

Opener = Callable[[argparse.Namespace, Progress], AbstractContextManager[Work]]
"""From a command's options, and who is told each stage, to its work."""


def add_file_options(command: argparse.ArgumentParser, kind: str, formats: str, model: str) -> None:
    """Add the files to work on, where to write, and the model."""
    command.add_argument("file", type=Path, nargs="+", metavar=kind, help=formats)
    command.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    command.add_argument("--model", default=model, help=f"{model}, if none is given")


def add_model_options(here: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Add how a model is run on this machine."""
    here.add_argument("--models", type=Path, help="folder of models")
    here.add_argument(
        "--backend",
        help="auto, tensorrt, tensorrt-rtx, openvino, onnxruntime, onnxruntime-tensorrt, pytorch "
        "or pytorch-compiled",
    )
    here.add_argument("--device", help="auto, cpu or cuda")
    here.add_argument("--precision")
    here.add_argument("--threads", type=int)


def local_backend(args: argparse.Namespace, task: str) -> Callable[[], Backend]:
    """Opens the model that the options name, once, when it is first called.

    What it gives raises as `find_model`, `require_task` and `open_backend` do.
    """
    threads = len(os.sched_getaffinity(0)) if args.threads is None else args.threads
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
