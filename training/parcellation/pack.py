"""Pack the pairs of a recipe into one file, small enough to carry to a machine with a GPU.

    python -m training.parcellation.pack training/configs/compact.toml --pairs PAIRS -o pairs.npz

With --tests it also holds the test scans. Training and evaluation take the file as PAIRS.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from neurobento.command import run
from training.parcellation.dataset import find_split, open_pairs, write_pack
from training.parcellation.recipe import read_recipe

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.parcellation.pack")
    parser.add_argument("recipe", type=Path, help="a TOML file, such as those in training/configs")
    parser.add_argument(
        "--pairs", type=Path, required=True, help="folder of training.parcellation.label"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the file, *.npz")
    parser.add_argument("--tests", action="store_true", help="pack the test scans too")
    args = parser.parse_args(argv)
    data, source = read_recipe(args.recipe).data, open_pairs(args.pairs)
    split = find_split(source, data.train, data.validation, data.test, tests_required=args.tests)
    names = [*split.train, *split.validation]
    if args.tests:
        names += [name for group in split.test.values() for name in group]
    write_pack(args.output, [source.load(name) for name in tqdm(names, unit="scan")])
    print(f"{len(names)} scans, {args.output.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.parcellation.pack"))
