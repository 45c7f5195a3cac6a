"""Turn a checkpoint into a model: models/NAME/model.onnx, weights.pt, spec.json and atlas.npz.

    python -m export.to_onnx RUN/best.pt --name compact --scans IMAGES... -o models/compact
    python -m export.to_onnx models/compact --scans IMAGES...

The second form exports a model's graph again. The graph maps `image` (N, 1, 91, 122, 123) float32
to `labels` (N, 91, 122, 123) uint8, with padding, cropping and argmax inside. A map network's has
`positions` (N, 3, 24, 32, 32) float32 too: where blocks of voxels lie in the atlas of atlas.npz, in
mm. An anomaly network's graph maps `image` (N, 1, 128, 128) to `score` (N) and `error_map` (N, 128,
128), and --scans are slices. The files are compared with PyTorch on real scans (`export.verify`)
before they are moved into place.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.publish import publish, publish_again
from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.networks.weights import read_values
from neurobento.spec import ModelSpec

__all__ = ["main"]

logger = logging.getLogger(__name__)


def _metrics(path: Path, checkpoint: Path) -> dict[str, Any]:
    """Return the metrics of a checkpoint's network, by group of test scans."""
    document: dict[str, Any] = json.loads(path.read_text())
    if "summary" in document:
        summary: dict[str, Any] = document["summary"]
        return summary
    network = read_values(checkpoint)["recipe"]["network"]
    if network not in document["methods"]:
        raise ConfigError(
            subject=str(path),
            expected=f"metrics of {network}",
            found=f"metrics of {', '.join(document['methods'])}",
            remedy="Give its recipe to `python -m training.anomaly.report` too.",
        )
    return {"test": document["methods"][network]["by"]["chosen"]}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m export.to_onnx")
    parser.add_argument("checkpoint", type=Path, help="best.pt of a run, or a model's folder")
    parser.add_argument("-o", "--output", type=Path, help="models/NAME")
    parser.add_argument("--name")
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument(
        "--scans", type=Path, nargs="+", required=True, help="NAME_image.nii.gz of three scans"
    )
    parser.add_argument(
        "--metrics",
        type=Path,
        help="JSON written by training.parcellation.evaluate or training.anomaly.report",
    )
    parser.add_argument("--licence", default="", help="notes on the data behind the weights")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)
    logging.getLogger("onnxscript").setLevel(logging.WARNING)
    if args.checkpoint.is_dir():
        _log_verification(publish_again(args.checkpoint, args.scans))
        return 0
    if args.output is None or args.name is None:
        parser.error("a checkpoint needs --name and --output")
    metrics = _metrics(args.metrics, args.checkpoint) if args.metrics else {}
    spec = publish(
        args.checkpoint,
        args.output,
        name=args.name,
        version=args.version,
        scans=args.scans,
        metrics=metrics,
        licence=args.licence,
    )
    _log_verification(spec)
    return 0


def _log_verification(spec: ModelSpec) -> None:
    logger.info("%s %s: %s", spec.name, spec.version, json.dumps(spec.verification))


if __name__ == "__main__":
    raise SystemExit(run(main, "export.to_onnx"))
