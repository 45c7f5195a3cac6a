"""Measure each region's share of a brain over the training labels.

    python -m training.studies.reference_shares training/configs/compact.toml --pairs PAIRS

writes neurobento/data/region_shares.tsv, by which volumetry flags a region as small or large.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import neurobento
from neurobento.command import run
from neurobento.labels import CLASS_COUNT, aal116
from training.parcellation.dataset import Pair, find_split, load_pairs, open_pairs
from training.parcellation.recipe import read_recipe

__all__ = ["main", "shares_percent", "shares_tsv"]


def shares_percent(pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """Return each label's percentage of all labelled voxels, (scans, 117); column 0 is zero."""
    counts = np.stack([np.bincount(p.labels.numpy().ravel(), minlength=CLASS_COUNT) for p in pairs])
    counts[:, 0] = 0
    return np.asarray(100 * counts / counts.sum(axis=1, keepdims=True))


def shares_tsv(shares: NDArray[np.float64]) -> str:
    """Format mean and SD of every region as a table."""
    mean, sd = shares.mean(axis=0), shares.std(axis=0, ddof=1)
    lines = ["class_index\tname\tmean_percent\tsd_percent"]
    lines += [
        f"{r.class_index}\t{r.name}\t{mean[r.class_index]:.5f}\t{sd[r.class_index]:.5f}"
        for r in aal116()
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.studies.reference_shares")
    parser.add_argument("recipe", type=Path)
    parser.add_argument(
        "--pairs", type=Path, required=True, help="folder of training.parcellation.label"
    )
    args = parser.parse_args(argv)
    data, source = read_recipe(args.recipe).data, open_pairs(args.pairs)
    split = find_split(source, data.train, data.validation, {})
    table = shares_tsv(shares_percent(load_pairs(source, split.train)))
    (Path(neurobento.__file__).parent / "data" / "region_shares.tsv").write_text(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.studies.reference_shares"))
