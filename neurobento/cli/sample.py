"""The command `neurobento sample`: write a brain scan to try the other commands on."""

from __future__ import annotations

import argparse
from pathlib import Path

from neurobento.cli.options import Commands

__all__ = ["add_sample_command"]


def add_sample_command(commands: Commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "sample",
        help="write a T1 scan to try the other commands on",
        description="Write a T1 scan of a brain without skull, for `neurobento parcellate FILE "
        "-o FOLDER --preprocessing stripped`.",
    )
    command.set_defaults(run=_run)
    command.add_argument("file", type=Path, metavar="FILE", help="file to write, .nii or .nii.gz")


def _run(args: argparse.Namespace) -> int:
    from neurobento.sample import write_sample

    write_sample(args.file)
    print(f"{args.file}: use it with --preprocessing stripped")
    return 0
