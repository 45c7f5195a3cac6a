"""Process files one after the other: report progress, write the outputs, explain the errors."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from neurobento.errors import (
    ConfigError,
    DeadlineExceeded,
    NotEnoughMemory,
    PreprocessingError,
    RequestRefused,
    ScanError,
)
from neurobento.preprocessing.mode import Progress

__all__ = ["OpenProcessor", "ProcessFile", "process_each_file", "require_writable"]

# Takes a file; returns its output files by name, and warnings about them
ProcessFile = Callable[[Path], tuple[dict[str, bytes], list[str]]]

# Takes a command's options, and a function to call at the start of each stage
OpenProcessor = Callable[[argparse.Namespace, Progress], AbstractContextManager[ProcessFile]]

# After these the next file is processed; any other error ends the command
ERRORS_OF_ONE_FILE = (
    ScanError,
    PreprocessingError,
    NotEnoughMemory,
    RequestRefused,
    DeadlineExceeded,
)

TRIAL_BYTES = 1 << 20
"""Room that has to be there before the first scan: the outputs of one take a few hundred kB."""


def process_each_file(
    args: argparse.Namespace, open_processor: OpenProcessor, main_output: str
) -> int:
    """Write the outputs of every file and print each main output's path; return 1 if any failed."""
    _check_names(args.file)
    require_writable(args.output)
    with open_processor(args, _print_stage) as process_file:
        return max([_process(path, args, process_file, main_output) for path in args.file])


def _check_names(paths: Sequence[Path]) -> None:
    """Refuse files whose outputs would have the same names, before all work."""
    from neurobento.imaging.scan import scan_name

    names: set[str] = set()
    for path in paths:
        if scan_name(path) in names:
            raise ConfigError(
                subject=str(path),
                expected="files with different names",
                found="a second file with the same name",
                remedy="Process it in a run of its own, with another folder for -o.",
            )
        names.add(scan_name(path))


def require_writable(folder: Path) -> None:
    """Refuse, before all work, a folder for the outputs that cannot be made or written to."""
    if folder.name.lower().endswith((".nii", ".nii.gz", ".mgz")):
        raise ConfigError(
            subject=f"-o {folder}",
            expected="a folder",
            found="the name of an image file",
            remedy="Name a folder; the files in it are named after the scans.",
        )
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=existing) as trial:
            trial.write(bytes(TRIAL_BYTES))
            trial.flush()
            # some file systems count the room only now
            os.fsync(trial.fileno())
    except OSError as error:
        raise ConfigError(
            subject=f"-o {folder}",
            expected="a folder that can be made and written to",
            found=f"{existing}: {error.strerror}",
            remedy="Name another folder.",
        ) from None


def _process(
    path: Path, args: argparse.Namespace, process_file: ProcessFile, main_output: str
) -> int:
    from neurobento.files import require_regular_file, write_together
    from neurobento.imaging.scan import scan_name

    if len(args.file) > 1:
        _print_note(f"{path}:")
    try:
        require_regular_file(path)
        files, warnings = process_file(path)
        write_together(args.output, files)
    except ERRORS_OF_ONE_FILE as error:
        _print_note(f"neurobento: {error if error.subject else error.about(str(path))}")
        return 1
    except OSError as error:
        at = f"{path}: " if error.filename in (None, str(path)) else f"{path}: {error.filename}: "
        _print_note(f"neurobento: {at}{error.strerror or error}")
        return 1
    for warning in warnings:
        _print_note(f"warning: {warning}")
    print(args.output / f"{scan_name(path)}_{main_output}")
    return 0


def _print_stage(stage: str) -> None:
    _print_note(f"{stage.replace('_', ' ')} ...")


def _print_note(text: str) -> None:
    """Print to stderr: stdout holds the paths of the outputs and nothing else."""
    print(text, file=sys.stderr, flush=True)
