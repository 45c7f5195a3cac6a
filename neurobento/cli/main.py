"""The command `neurobento`: choose a subcommand, run it, and explain errors on stderr."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from neurobento.cli.anomaly import add_anomaly_command
from neurobento.cli.cohort import add_cohort_command
from neurobento.cli.models import add_models_command
from neurobento.cli.parcellate import add_parcellate_command
from neurobento.cli.sample import add_sample_command
from neurobento.command import run

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 if all went well, 1 after an error message."""
    args = _parser().parse_args(argv)
    return run(lambda: args.run(args), "neurobento")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neurobento",
        description="Label the 116 AAL regions of brain MRI scans, and find anomalies in them.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_parcellate_command(commands)
    add_anomaly_command(commands)
    add_cohort_command(commands)
    add_models_command(commands)
    add_sample_command(commands)
    return parser
