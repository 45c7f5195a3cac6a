"""A checkpoint becomes a model: models/NAME/model.onnx, weights.pt and spec.json.

    python -m export.to_onnx RUN/best.pt --name compact --scans IMAGES... -o models/compact

The graph takes `image` (N, 1, 91, 122, 123) float32 and gives `labels`
(N, 91, 122, 123) uint8; padding, cropping and argmax are inside it. Weights are
kept in half precision and computed with in single. Both files are made beside
the destination, compared with PyTorch on real scans (`export.verify`) and only
then moved into place.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.graph import drop_zero_taps, strip_notes
from export.last_layer import classify_by_product
from export.verify import read_images, verify
from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.geometry import NETWORK_SHAPE
from neurobento.networks.weights import load_network, read_values, write_weights
from neurobento.registry import ONNX_FILE, SPEC_FILE, WEIGHTS_FILE, Model
from neurobento.spec import ModelSpec, file_sha256

__all__ = ["LARGEST_MODEL_BYTES", "OPSET", "export_onnx", "main", "publish"]

OPSET = 18
LARGEST_MODEL_BYTES = 30_000_000
SMALL = 1024
"""Numbers of a constant that is not worth a cast."""

logger = logging.getLogger(__name__)


def export_onnx(checkpoint: Path, onnx_path: Path) -> None:
    """Write the label graph of a checkpoint's network as one ONNX file.

    Parameters
    ----------
    checkpoint
        What `training.train` wrote.
    onnx_path
        Where to; weights inside, no external data.

    Raises
    ------
    ConfigError
        The checkpoint cannot be read, or the file would be too large to ship.
    """
    import onnx
    import torch

    network = _label_graph(load_network(checkpoint))
    batch = torch.export.Dim("N", min=1, max=64)
    program = torch.onnx.export(
        network,
        (torch.rand(2, 1, *NETWORK_SHAPE),),
        input_names=["image"],
        output_names=["labels"],
        dynamic_shapes={"image": {0: batch}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("the exporter gave no program")
    model = program.model_proto
    strip_notes(model)
    drop_zero_taps(model)
    classify_by_product(model)
    _halve(model.graph)
    onnx.save(model, onnx_path)
    onnx.checker.check_model(str(onnx_path), full_check=True)
    if onnx_path.stat().st_size > LARGEST_MODEL_BYTES:
        raise ConfigError(
            subject=str(onnx_path),
            expected=f"a model of at most {LARGEST_MODEL_BYTES} bytes",
            found=str(onnx_path.stat().st_size),
            remedy="Train a smaller network.",
        )


def _halve(graph: Any) -> None:
    """Keep constants that half precision holds exactly in it, and a cast in front of their use.

    Engines fold the casts when they load the graph: it computes as before.
    """
    import onnx

    casts = []
    for constant in graph.initializer:
        if constant.data_type != onnx.TensorProto.FLOAT or math.prod(constant.dims) < SMALL:
            continue
        values = onnx.numpy_helper.to_array(constant)
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if not np.array_equal(halved, values):
            continue
        name = constant.name
        constant.CopyFrom(onnx.numpy_helper.from_array(halved, f"{name}_half"))
        casts.append(
            onnx.helper.make_node("Cast", [constant.name], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _label_graph(network: Any) -> Any:
    """A module whose forward is the network's `labels`."""
    import torch

    class LabelGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            labels: torch.Tensor = self.network.labels(image)
            return labels

    return LabelGraph().eval()


def publish(
    checkpoint: Path,
    folder: Path,
    *,
    name: str,
    version: str,
    scans: Sequence[Path],
    metrics: dict[str, Any],
    licence: str,
) -> ModelSpec:
    """Export, verify and move into place; the folder is left as it was if anything fails.

    Parameters
    ----------
    checkpoint
        What `training.train` wrote.
    folder
        models/NAME; replaced as a whole.
    name, version
        Of the model.
    scans
        Images on the network grid (`NAME_image.nii.gz` of `training.label`);
        three at least.
    metrics
        Measured on test scans; goes into the spec.
    licence
        Notes on the data behind the weights.

    Raises
    ------
    ParityFailure
        A runtime disagrees with PyTorch by more than is allowed.
    ConfigError
        The checkpoint or the scans cannot be used.
    """
    images = read_images(scans)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as temporary:
        made = Path(temporary, folder.name)
        made.mkdir()
        onnx_path, weights = made / ONNX_FILE, made / WEIGHTS_FILE
        values = read_values(checkpoint)
        write_weights(values, weights)
        export_onnx(weights, onnx_path)
        spec = ModelSpec(
            name=name,
            version=version,
            network=values["recipe"]["network"],
            onnx_sha256=file_sha256(onnx_path),
            checkpoint_sha256=file_sha256(checkpoint),
            weights_sha256=file_sha256(weights),
            opset=OPSET,
            training=_training_summary(values),
            metrics=metrics,
            licence=licence,
        )
        verification = verify(load_network(weights), Model(made, spec), images)
        spec = ModelSpec(**{**spec.__dict__, "verification": verification})
        spec.write(made / SPEC_FILE)
        if folder.exists():
            # goes with the temporary folder, once the new model stands in its place
            folder.rename(Path(temporary, "replaced"))
        made.rename(folder)
    return spec


def _training_summary(values: dict[str, Any]) -> dict[str, Any]:
    """What a reader wants to know of the run, without the weights."""
    return {
        "recipe": values["recipe"],
        "steps": values["step"],
        "hours": round(values["seconds"] / 3600, 3),
        "best_step": values["best_step"],
        "best_validation_dice": round(values["best_dice"], 4),
        "exported": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m export.to_onnx")
    parser.add_argument("checkpoint", type=Path, help="best.pt of a run")
    parser.add_argument("-o", "--output", type=Path, required=True, help="models/NAME")
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument(
        "--scans", type=Path, nargs="+", required=True, help="NAME_image.nii.gz of three scans"
    )
    parser.add_argument("--metrics", type=Path, help="JSON that training.evaluate wrote")
    parser.add_argument("--licence", default="", help="notes on the data behind the weights")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    metrics = json.loads(args.metrics.read_text())["summary"] if args.metrics else {}
    spec = publish(
        args.checkpoint,
        args.output,
        name=args.name,
        version=args.version,
        scans=args.scans,
        metrics=metrics,
        licence=args.licence,
    )
    logger.info("%s %s: %s", spec.name, spec.version, json.dumps(spec.verification))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "export.to_onnx"))
