"""Compare the brain finder's masks with deepbet's on real heads, and with the truth on drawn ones.

    python -m training.brain.evaluate models/brain SCANS... --maps MAPS -o results/brain/brain.json

Masks are compared on each scan's own grid. The drawn heads come from the maps that training keeps
for validation, in contrasts and shapes that it has not seen. Beside the JSON file lies a picture of
every real head with both outlines.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.backends import Backend, open_backend
from neurobento.cohort.scans import find_scan_files
from neurobento.command import run
from neurobento.files import write_atomically
from neurobento.imaging.scan import Scan, read_scan, scan_name
from neurobento.preprocessing.brain import run_finder
from neurobento.preprocessing.deepbet_mask import deepbet_mask
from neurobento.preprocessing.signal import positive_signal
from neurobento.registry import open_model
from training.brain.drawn_heads import draw_head
from training.brain.head_maps import HeadMap, read_head_maps

__all__ = ["compare_drawn", "compare_real", "main", "mask_dice"]

DRAWN_HEADS = 20
SEED = 1


def mask_dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Return the Dice of two masks."""
    return float(2 * (found & truth).sum() / max(1, found.sum() + truth.sum()))


def compare_real(
    finder: Backend, scan: Scan
) -> tuple[dict[str, float], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return a head's figures, and both masks on its own grid."""
    brain = run_finder(positive_signal(scan.array), scan.voxel_to_ras, finder)
    found = brain.on_grid(scan.voxel_to_ras, scan.shape)
    teacher = deepbet_mask(scan)
    figures = {
        "dice": round(mask_dice(found, teacher), 4),
        "volume_ratio": round(float(found.sum() / max(1, teacher.sum())), 4),
        "volume_ml": round(brain.volume_ml, 1),
    }
    return figures, found, teacher


def compare_drawn(finder: Backend, maps: Sequence[HeadMap], count: int) -> list[float]:
    """Return the Dice of drawn heads on the finder's grid."""
    scores = []
    for number in range(count):
        head = draw_head(maps[number % len(maps)], np.random.default_rng([SEED, number]))
        found = finder.run(head.image.numpy()[None, None])["brain"][0] > 0.5
        scores.append(round(mask_dice(found, head.brain.numpy() > 0.5), 4))
    return scores


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(values),
        "mean": round(float(np.mean(values)), 4),
        "lowest": round(min(values), 4),
    }


def _draw(
    pictures: Sequence[tuple[str, Scan, NDArray[np.bool_], NDArray[np.bool_]]], path: Path
) -> None:
    """Draw a slice through the middle of each brain along every axis, with both outlines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * len(pictures), 6.4), layout="constrained")
    axes = figure.subplots(3, len(pictures), squeeze=False)
    for column, (name, scan, found, teacher) in enumerate(pictures):
        middle = [int(np.median(places)) for places in np.nonzero(found | teacher)]
        sizes = scan.voxel_sizes_mm
        for axis in range(3):
            picture = axes[axis, column]
            a, b = (i for i in range(3) if i != axis)
            image, own, other = (
                np.take(each, middle[axis], axis=axis).T for each in (scan.array, found, teacher)
            )
            aspect = sizes[b] / sizes[a]
            bright = float(np.percentile(image, 99.5))
            picture.imshow(image, cmap="gray", origin="lower", aspect=aspect, vmax=bright)
            picture.contour(own, [0.5], colors="tab:red", linewidths=0.8)
            picture.contour(other, [0.5], colors="tab:cyan", linewidths=0.8)
            picture.axis("off")
        axes[0, column].set_title(name, fontsize=7)
    figure.suptitle("brain finder (red) and deepbet (blue)", fontsize=9)
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    from tqdm import tqdm

    parser = argparse.ArgumentParser(prog="python -m training.brain.evaluate")
    parser.add_argument("model", type=Path, help="the model's folder, such as models/brain")
    parser.add_argument("scans", type=Path, nargs="+", help="heads with skull: files or folders")
    parser.add_argument("--maps", type=Path, required=True, help="folder of head label maps")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    model = open_model(args.model)
    finder = open_backend(model)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    heads: dict[str, Any] = {}
    pictures = []
    for path in tqdm(find_scan_files(args.scans), unit="scan"):
        scan = read_scan(path)
        figures, found, teacher = compare_real(finder, scan)
        heads[scan_name(path)] = figures
        pictures.append((scan_name(path), scan, found, teacher))
    kept = model.spec.training["recipe"]["validation_maps"]
    drawn = compare_drawn(finder, read_head_maps(args.maps)[-kept:], DRAWN_HEADS)
    document = {
        "model": {"name": model.spec.name, "onnx_sha256": model.spec.onnx_sha256},
        "teacher": f"deepbet {metadata.version('deepbet')}",
        "real": _summary([each["dice"] for each in heads.values()]),
        "drawn": _summary(drawn),
        "heads": heads,
        "drawn_dice": drawn,
    }
    write_atomically(args.output, (json.dumps(document, indent=1) + "\n").encode())
    _draw(pictures, args.output.with_suffix(".png"))
    print(json.dumps({key: document[key] for key in ("real", "drawn")}))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.brain.evaluate"))
