"""The command `neurobento models`: list the models and how good they are."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from neurobento.cli.options import Commands, add_models_option

if TYPE_CHECKING:
    from neurobento.spec import ModelSpec

__all__ = ["add_models_command"]


def add_models_command(commands: Commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "models",
        help="list the models",
        description="List the models: name, version, task, network, accuracy and size.",
    )
    command.set_defaults(run=_run)
    add_models_option(command)


def _run(args: argparse.Namespace) -> int:
    from neurobento.registry import list_models

    print("name\tversion\ttask\tnetwork\ttest\tsize MB")
    for model in list_models(args.models):
        spec = model.spec
        size = model.onnx.stat().st_size / 1e6
        row = (spec.name, spec.version, spec.task, spec.network, _accuracy(spec), f"{size:.1f}")
        print("\t".join(row))
    return 0


def _accuracy(spec: ModelSpec) -> str:
    """Return the accuracy that the model's spec states: AUROC of a detector, else mean Dice."""
    if spec.task == "anomaly":
        auroc = spec.metrics.get("test", {}).get("auroc")
        return f"AUROC {auroc['value']:.2f}" if auroc else "not measured"
    first = next(iter(spec.metrics.values()), None)
    return f"Dice {first['mean']:.4f}" if first else "not measured"
