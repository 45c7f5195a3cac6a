"""Check that exported models give the labels of the networks they came from.

    python -m export.verify models/* --scans IMAGES... --write

The reference is PyTorch in fp32. Every backend that runs the model here labels the same scans, in
each precision. One in fp32 that agrees on too few voxels fails the model; fp16 and bf16 may fail;
int8 passes if its Dice against labels is as good. Labels beside the scans, as
`training.parcellation.label` leaves them, give the Dice region by region.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.verification.configs import configs_to_verify
from export.verification.labels import read_images, read_labels, verify_labels
from neurobento.backends import BACKENDS
from neurobento.backends.pytorch import open_weights
from neurobento.command import run
from neurobento.networks.weights import load_network
from neurobento.registry import SPEC_FILE, Model, open_model

__all__ = ["keep_known", "main"]

logger = logging.getLogger(__name__)


def keep_known(verified: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return new results, with known ones where a configuration was not verified this time."""
    kept = {
        name: result
        for name, result in known.items()
        if isinstance(result, dict) and "passed" in result
    }
    return {
        name: kept.get(name, result)
        if isinstance(result, dict) and "not_verified" in result
        else result
        for name, result in verified.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; print the results of all models as one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m export.verify")
    parser.add_argument("models", type=Path, nargs="+", help="folders of models")
    parser.add_argument("--scans", type=Path, nargs="+", required=True)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--write", action="store_true", help="put the results into spec.json")
    chosen.add_argument("--backends", nargs="+", choices=list(BACKENDS), help="only these")
    args = parser.parse_args(argv)
    configs = configs_to_verify(args.backends or BACKENDS)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    images, labels = read_images(args.scans), read_labels(args.scans)
    results: dict[str, Any] = {}
    try:
        for folder in args.models:
            model = open_model(folder)
            if model.spec.task != "parcellation":
                logger.info("%s: left out, because it takes no scans", model.spec.name)
                continue
            network = load_network(open_weights(model))
            result = verify_labels(network, model, images, labels, configs, by_region=True)
            results[model.spec.name] = result
            if args.write:
                _write(model, result)
    finally:
        # A run takes hours: print what was found before a failure too.
        print(json.dumps(results, indent=2), flush=True)
    return 0


def _write(model: Model, result: dict[str, Any]) -> None:
    verification = keep_known(_without_regions(result), model.spec.verification)
    dataclasses.replace(model.spec, verification=verification).write(model.folder / SPEC_FILE)


def _without_regions(results: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in result.items() if key != "dice_by_region"}
        if isinstance(result, dict)
        else result
        for name, result in results.items()
    }


if __name__ == "__main__":
    raise SystemExit(run(main, "export.verify"))
