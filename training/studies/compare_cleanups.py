"""Measure what each clean-up does to registered labels: voxels changed, regions lost, pieces.

python -m training.studies.compare_cleanups PAIRS -o results/cleanup/cleanup.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.labels import CLASS_COUNT, aal116
from training.parcellation.cleanup import CLEANUPS, CUBE, Cleanup, clean_up

__all__ = ["compare", "main"]

SUFFIX = "_registered.nii.gz"


def compare(registered: NDArray[np.uint8], how: Cleanup) -> dict[str, Any]:
    """Measure the effect of one clean-up on one label map."""
    cleaned = clean_up(registered, how)
    labelled = registered > 0
    before, after = (np.bincount(m.ravel(), minlength=CLASS_COUNT) for m in (registered, cleaned))
    lost = [r.name for r in aal116() if before[r.class_index] and not after[r.class_index]]
    return {
        "changed_percent": 100 * float((cleaned != registered)[labelled].mean()),
        "removed_percent": 100 * float((cleaned == 0)[labelled].mean()),
        "regions_lost": lost,
        "islands": _islands(cleaned),
    }


def _islands(labels: NDArray[np.uint8]) -> int:
    """Count pieces beyond the first, over all regions."""
    present = [i for i in range(1, CLASS_COUNT) if (labels == i).any()]
    return sum(ndimage.label(labels == i, structure=CUBE)[1] - 1 for i in present)


def _summary(effects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    lost = [name for effect in effects for name in effect["regions_lost"]]
    return {
        "changed_percent": round(float(np.mean([e["changed_percent"] for e in effects])), 3),
        "removed_percent": round(float(np.mean([e["removed_percent"] for e in effects])), 3),
        "islands": round(float(np.mean([e["islands"] for e in effects])), 2),
        "regions_lost": {name: lost.count(name) for name in sorted(set(lost))},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.studies.compare_cleanups")
    parser.add_argument("pairs", type=Path, help="folder of training.parcellation.label")
    parser.add_argument("--pattern", default="*", help="glob of scan names")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    paths = sorted(args.pairs.glob(args.pattern + SUFFIX))
    if not paths:
        raise ConfigError(
            subject=str(args.pairs),
            expected=f"files {args.pattern}{SUFFIX}",
            found="none",
            remedy="Give the folder that `python -m training.parcellation.label` wrote.",
        )
    maps = [np.asarray(nib.load(path).dataobj) for path in paths]
    summary: dict[str, Any] = {
        "scans": len(maps),
        **{how: _summary([compare(labels, how) for labels in maps]) for how in CLEANUPS},
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.studies.compare_cleanups"))
