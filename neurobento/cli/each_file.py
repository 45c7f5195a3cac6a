"""Process files one after the other: report progress, write the outputs, explain the errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from neurobento.errors import (
    ConfigError,
    DeadlineExceeded,
    PreprocessingError,
    RequestRefused,
    ScanError,
)
from neurobento.preprocessing.mode import Progress

__all__ = ["OpenProcessor", "ProcessFile", "process_each_file"]

# Takes a file; returns its output files by name, and warnings about them
ProcessFile = Callable[[Path], tuple[dict[str, bytes], list[str]]]

# Takes a command's options, and a function to call at the start of each stage
OpenProcessor = Callable[[argparse.Namespace, Progress], AbstractContextManager[ProcessFile]]

# After these the next file is processed; any other error ends the command
ERRORS_OF_ONE_FILE = (ScanError, PreprocessingError, RequestRefused, DeadlineExceeded)


def process_each_file(
    args: argparse.Namespace, open_processor: OpenProcessor, main_output: str
) -> int:
    """Write the outputs of every file and print each main output's path; return 1 if any failed."""
    _check_files(args.file)
    with open_processor(args, _print_stage) as process_file:
        return max([_process(path, args, process_file, main_output) for path in args.file])


def _check_files(paths: Sequence[Path]) -> None:
    """Refuse missing files, and files whose outputs would have the same names, before all work."""
    from neurobento.imaging.scan import scan_name

    names: set[str] = set()
    for path in paths:
        path.stat()
        if scan_name(path) in names:
            raise ConfigError(
                subject=str(path),
                expected="files with different names",
                found="a second file with the same name",
                remedy="Process it in a run of its own, with another folder for -o.",
            )
        names.add(scan_name(path))


def _process(
    path: Path, args: argparse.Namespace, process_file: ProcessFile, main_output: str
) -> int:
    from neurobento.files import write_atomically
    from neurobento.imaging.scan import scan_name

    if len(args.file) > 1:
        _print_note(f"{path}:")
    try:
        files, warnings = process_file(path)
    except ERRORS_OF_ONE_FILE as error:
        _print_note(f"neurobento: {error if error.subject else error.about(str(path))}")
        return 1
    args.output.mkdir(parents=True, exist_ok=True)
    for file_name, content in files.items():
        write_atomically(args.output / file_name, content)
    for warning in warnings:
        _print_note(f"warning: {warning}")
    print(args.output / f"{scan_name(path)}_{main_output}")
    return 0


def _print_stage(stage: str) -> None:
    _print_note(f"{stage.replace('_', ' ')} ...")


def _print_note(text: str) -> None:
    """Print to stderr: stdout holds the paths of the outputs and nothing else."""
    print(text, file=sys.stderr, flush=True)
