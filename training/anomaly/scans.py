"""Find the score above which a whole scan is called anomalous, from healthy scans of each source.

    python -m training.anomaly.scans models/anomaly --source NAME=SCAN,SCAN,... \\
        --source NAME=PATTERN -o results/anomaly/scans.json [--write]

A tenth of healthy scans is expected above the threshold, which `--write` puts into the model's
spec.json. For each source the command reports the share of its scans above the threshold that the
others alone would have set, and the share found of the same scans with a synthetic lesion: no
tumour, but it shows how large a lesion has to be.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from neurobento.anomaly.detector import AnomalyDetector
from neurobento.backends import open_backend
from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import write_atomically
from neurobento.imaging.scan import Scan, read_scan
from neurobento.registry import SPEC_FILE, open_model
from neurobento.spec import ModelSpec
from training.anomaly.reductions import FALSE_POSITIVE_RATE, auroc, threshold_from

__all__ = ["main", "measure", "put_in_lesion"]

SCAN_REPORT_FORMAT = 1
DIAMETERS_MM = (10.0, 20.0, 30.0, 40.0)
DRAWS = 2
"""Lesions of each diameter in each scan, one at a time."""

LEVELS = (-0.6, 0.6, 1.2)
"""Changes of the intensity inside a lesion, as a share of the tissue's."""

RIM = 0.3
"""Width of a ring, as a share of the lesion's radius."""

LEAST_TISSUE = 0.3
"""Darkest tissue, as a share of the 95th percentile: below is air, or fluid at the edge."""

Scores = dict[str, list[float]]
"""Source -> scores of its scans."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.anomaly.scans")
    parser.add_argument("model", type=Path, help="a model's folder, such as models/anomaly")
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="NAME=FOLDER/PATTERN[,FOLDER/PATTERN...]",
        help="healthy scans of one source",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="a JSON file")
    parser.add_argument("--threads", type=int, default=0, help="default: all")
    parser.add_argument("--write", action="store_true", help="write the threshold into spec.json")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sources = dict(_scans_of(given) for given in args.source)
    if len(sources) < 2:
        raise ConfigError(
            subject="--source",
            expected="healthy scans of two sources at least",
            found=f"{len(sources)} source",
            remedy="Give another --source: each one tests the threshold of the others.",
        )
    detector = AnomalyDetector(open_backend(open_model(args.model), threads=args.threads))
    healthy, with_lesion = _score(detector, sources)
    document = {
        "format": SCAN_REPORT_FORMAT,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "model": {"name": detector.backend.spec.name, "onnx": detector.backend.spec.onnx_sha256},
        **measure(healthy, with_lesion),
    }
    write_atomically(args.output, (json.dumps(document, indent=2) + "\n").encode())
    print(table(document))
    if args.write:
        spec = ModelSpec.read(args.model / SPEC_FILE)
        detection = spec.detection | {"scan_threshold": document["threshold"]}
        dataclasses.replace(spec, detection=detection).write(args.model / SPEC_FILE)
    return 0


def _scans_of(given: str) -> tuple[str, list[Path]]:
    name, _, patterns = given.partition("=")
    found: list[Path] = []
    for pattern in patterns.split(","):
        path = Path(pattern)
        found += sorted(path.parent.glob(path.name))
    if not found:
        raise ConfigError(
            subject="--source",
            expected="NAME=FOLDER/PATTERN that some scans match",
            found=given,
            remedy="Correct it, in quotes.",
        )
    return name, found


def _score(
    detector: AnomalyDetector, sources: Mapping[str, Sequence[Path]]
) -> tuple[Scores, dict[float, Scores]]:
    healthy: Scores = {name: [] for name in sources}
    with_lesion: dict[float, Scores] = {
        diameter: {name: [] for name in sources} for diameter in DIAMETERS_MM
    }
    scans = [(name, path) for name, paths in sources.items() for path in paths]
    for number, (name, path) in enumerate(tqdm(scans, unit="scan")):
        scan = read_scan(path)
        healthy[name].append(detector.detect_scan(scan).score)
        for diameter in DIAMETERS_MM:
            random = np.random.default_rng([number, int(diameter)])
            for _ in range(DRAWS):
                changed = put_in_lesion(scan, diameter, random)
                with_lesion[diameter][name].append(detector.detect_scan(changed).score)
    return healthy, with_lesion


def put_in_lesion(scan: Scan, diameter_mm: float, random: np.random.Generator) -> Scan:
    """Put a round lesion into tissue of the upper two thirds of a healthy scan's head."""
    array = scan.array.copy()
    places = _tissue(array, scan.voxel_to_ras)
    middle = places[random.integers(len(places))]
    sizes = np.array(scan.voxel_sizes_mm)
    reach = np.ceil(diameter_mm / 2 / sizes).astype(int)
    box = tuple(
        slice(max(0, at - far), at + far + 1) for at, far in zip(middle, reach, strict=True)
    )
    offsets = np.meshgrid(
        *(np.arange(n)[part] for n, part in zip(array.shape, box, strict=True)), indexing="ij"
    )
    squares = [((o - m) * s) ** 2 for o, m, s in zip(offsets, middle, sizes, strict=True)]
    distance = np.sqrt(sum(squares)) / (diameter_mm / 2)
    inside = distance <= 1
    level = float(array[box][inside].mean())
    change = level * float(random.choice(LEVELS))
    changed = inside & (distance > 1 - RIM) if random.random() < 1 / 3 else inside
    array[box] += np.where(changed, change, 0).astype(np.float32)
    return dataclasses.replace(scan, array=array)


def _tissue(array: NDArray[np.float32], voxel_to_ras: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the (N, 3) voxels with tissue, in the upper two thirds of those that have any."""
    places = np.argwhere(array > LEAST_TISSUE * np.percentile(array, 95))
    heights = places @ voxel_to_ras[2, :3]
    return places[heights > np.quantile(heights, 1 / 3)]


def measure(healthy: Scores, with_lesion: Mapping[float, Scores]) -> dict[str, Any]:
    """Return the threshold, and the shares of scans above it; lesions' diameters are in mm."""
    threshold = threshold_from(_all(healthy))
    sources = {
        name: {
            "scans": len(scores),
            "median": float(np.median(scores)),
            "above": _share(scores, threshold),
            "above_the_others_threshold": _share(
                scores, threshold_from(_all({k: v for k, v in healthy.items() if k != name}))
            ),
        }
        for name, scores in healthy.items()
    }
    lesions = {
        f"{diameter:g} mm": {
            "above": _share(_all(scores), threshold),
            "auroc": auroc(_all(healthy), _all(scores)),
            "by_source": {name: _share(each, threshold) for name, each in scores.items()},
        }
        for diameter, scores in with_lesion.items()
    }
    return {
        "threshold": threshold,
        "false_positive_rate": FALSE_POSITIVE_RATE,
        "scans": len(_all(healthy)),
        "above": _share(_all(healthy), threshold),
        "sources": sources,
        "lesions": lesions,
    }


def _all(scores: Scores) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(each, np.float64) for each in scores.values()])


def _share(scores: Sequence[float] | NDArray[np.float64], threshold: float) -> float:
    return float(np.mean(np.asarray(scores) > threshold))


def table(document: Mapping[str, Any]) -> str:
    """Format the document as Markdown tables."""
    lines = [
        "| healthy scans of | number | above the threshold | above that of the other sources |",
        "|---|---|---|---|",
    ]
    for name, found in document["sources"].items():
        others = found["above_the_others_threshold"]
        lines.append(f"| {name} | {found['scans']} | {found['above']:.2f} | {others:.2f} |")
    lines += ["", "| with a lesion of | above the threshold | AUROC |", "|---|---|---|"]
    lines.append(f"| none | {document['above']:.2f} | |")
    for name, found in document["lesions"].items():
        lines.append(f"| {name} | {found['above']:.2f} | {found['auroc']:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(run(main, "training.anomaly.scans"))
