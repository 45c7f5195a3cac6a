"""A checkpoint becomes a model: models/NAME/model.onnx, weights.pt and spec.json.

    python -m export.to_onnx RUN/best.pt --name compact --scans IMAGES... -o models/compact
    python -m export.to_onnx models/compact --scans IMAGES...

The second form makes the graph of a model anew, from the weights beside it.
The graph takes `image` (N, 1, 91, 122, 123) float32 and gives `labels`
(N, 91, 122, 123) uint8; padding, cropping and argmax are inside it. Of an anomaly
network it takes `image` (N, 1, 128, 128) and gives `score` (N) and `error_map`
(N, 128, 128); --scans are then slices, PNG, JPEG or DICOM. Weights are
kept in half precision and computed with in single. Both files are made beside
the destination, compared with PyTorch on real scans (`export.verify`) and only
then moved into place.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import logging
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.graph import drop_zero_taps, strip_notes
from export.last_layer import classify_by_product
from export.verify import read_images, read_labels, verify
from export.verify_scores import read_fitted, verify_scores
from neurobento.anomaly.thresholds import slice_threshold
from neurobento.backends import ImageBatch, LabelBatch
from neurobento.backends.pytorch import open_weights
from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from neurobento.networks import task_of
from neurobento.networks.weights import load_network, read_values, write_weights
from neurobento.registry import ONNX_FILE, SPEC_FILE, WEIGHTS_FILE, Model, open_model
from neurobento.spec import MODEL_TASKS, ModelSpec

__all__ = [
    "LARGEST_MODEL_BYTES",
    "OPSET",
    "export_onnx",
    "main",
    "publish",
    "publish_again",
    "staged",
]

OPSET = 18
LARGEST_MODEL_BYTES = 30_000_000
LARGEST_WEIGHT = 2**24
"""Numbers of a constant that is still worked out at export: more than any network has in one."""

SMALL = 1024
"""Numbers of a constant that is not worth a cast."""

logger = logging.getLogger(__name__)


def export_onnx(checkpoint: Path, onnx_path: Path) -> None:
    """Write the label graph of a checkpoint's network as one ONNX file.

    Parameters
    ----------
    checkpoint
        What `training.parcellation.train` wrote.
    onnx_path
        Where to; weights inside, no external data.

    Raises
    ------
    ConfigError
        The checkpoint cannot be read, or the file would be too large to ship.
    """
    import onnx
    import torch
    from onnxscript.optimizer import fold_constants

    network = load_network(checkpoint)
    task = MODEL_TASKS[task_of(network)]
    batch = torch.export.Dim("N", min=1, max=64)
    program = torch.onnx.export(
        _graph_of(network),
        (torch.rand(2, *task.image.shape),),
        input_names=["image"],
        output_names=list(task.outputs),
        dynamic_shapes={"image": {0: batch}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("the exporter gave no program")
    # what is cut or picked from weights is weights too
    fold_constants(program.model, input_size_limit=LARGEST_WEIGHT, output_size_limit=LARGEST_WEIGHT)
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


def _graph_of(network: Any) -> Any:
    """A module whose forward gives what the network's task says."""
    import torch

    work = network.detect if task_of(network) == "anomaly" else network.labels
    # a network may know a form of its function that engines run faster
    work = network.exported_labels() if hasattr(network, "exported_labels") else work

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> Any:
            return work(image)

    return Graph().eval()


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
        What `training.parcellation.train` wrote.
    folder
        models/NAME; replaced as a whole.
    name, version
        Of the model.
    scans
        Images on the network grid (`NAME_image.nii.gz` of `training.parcellation.label`);
        three at least. Labels that lie beside all of them are compared with too.
        For an anomaly network, slices.
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
    task = task_of(load_network(checkpoint))
    compared = _read_compared(task, scans)
    with staged(folder) as made:
        onnx_path, weights = made / ONNX_FILE, made / WEIGHTS_FILE
        values = read_values(checkpoint)
        write_weights(values, weights)
        export_onnx(weights, onnx_path)
        spec = ModelSpec.of_task(
            task,
            name=name,
            version=version,
            network=values["recipe"]["network"],
            onnx_sha256=file_sha256(onnx_path),
            checkpoint_sha256=file_sha256(checkpoint),
            weights_sha256=file_sha256(weights),
            opset=OPSET,
            training=_training_summary(values),
            metrics=metrics,
            detection=values.get("detection", {}),
            licence=licence,
        )
        return _verified(made, spec, *compared)


def publish_again(folder: Path, scans: Sequence[Path]) -> ModelSpec:
    """Make a model's graph anew from the weights beside it; all else stays as it was.

    An int8 form goes, since it was made of the graph that was.

    Parameters
    ----------
    folder
        models/NAME; replaced as a whole.
    scans
        As for `publish`.

    Raises
    ------
    ParityFailure
        A runtime disagrees with PyTorch by more than is allowed; the folder is
        as it was.
    """
    model = open_model(folder)
    compared = _read_compared(model.spec.task, scans)
    with staged(folder) as made:
        shutil.copy(open_weights(model), made / WEIGHTS_FILE)
        export_onnx(made / WEIGHTS_FILE, made / ONNX_FILE)
        spec = dataclasses.replace(
            model.spec, onnx_sha256=file_sha256(made / ONNX_FILE), opset=OPSET, int8_sha256=""
        )
        return _verified(made, spec, *compared)


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder that takes the other's place, unless what fills it fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as temporary:
        made = Path(temporary, folder.name)
        made.mkdir()
        yield made
        if folder.exists():
            # goes with the temporary folder, once the new model stands in its place
            folder.rename(Path(temporary, "replaced"))
        made.rename(folder)


def _read_compared(task: str, scans: Sequence[Path]) -> tuple[ImageBatch, LabelBatch | None]:
    """Images to compare runtimes on, and the labels that lie beside them, if any do."""
    if task == "anomaly":
        return read_fitted(scans), None
    return read_images(scans), read_labels(scans)


def _verified(
    folder: Path, spec: ModelSpec, images: ImageBatch, labels: LabelBatch | None
) -> ModelSpec:
    """The spec with what verification found, written into the folder."""
    if spec.task == "anomaly":
        slice_threshold(spec)
    network, model = load_network(folder / WEIGHTS_FILE), Model(folder, spec)
    if spec.task == "anomaly":
        found = verify_scores(network, model, images)
    else:
        found = verify(network, model, images, labels)
    spec = dataclasses.replace(spec, verification=found)
    spec.write(folder / SPEC_FILE)
    return spec


def _training_summary(values: dict[str, Any]) -> dict[str, Any]:
    """What a reader wants to know of the run, without the weights."""
    summary = {"recipe": values["recipe"], "hours": round(values["seconds"] / 3600, 3)}
    if "step" in values:
        summary |= {
            "steps": values["step"],
            "best_step": values["best_step"],
            "best_validation_dice": round(values["best_dice"], 4),
        }
    elif values["history"]:
        best = min(values["history"], key=lambda row: row["validation_loss"])
        summary |= {
            "epochs": len(values["history"]),
            "best_epoch": int(best["epoch"]),
            "best_validation_loss": round(best["validation_loss"], 5),
        }
    return summary | {"exported": datetime.datetime.now(datetime.UTC).date().isoformat()}


def _metrics(path: Path, checkpoint: Path) -> dict[str, Any]:
    """What was measured of a checkpoint's network, by group of test scans."""
    document: dict[str, Any] = json.loads(path.read_text())
    if "summary" in document:
        summary: dict[str, Any] = document["summary"]
        return summary
    network = read_values(checkpoint)["recipe"]["network"]
    if network not in document["methods"]:
        raise ConfigError(
            subject=str(path),
            expected=f"figures of {network}",
            found=f"of {', '.join(document['methods'])}",
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
        help="JSON that training.parcellation.evaluate or training.anomaly.report wrote",
    )
    parser.add_argument("--licence", default="", help="notes on the data behind the weights")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)
    logging.getLogger("onnxscript").setLevel(logging.WARNING)
    if args.checkpoint.is_dir():
        _say(publish_again(args.checkpoint, args.scans))
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
    _say(spec)
    return 0


def _say(spec: ModelSpec) -> None:
    logger.info("%s %s: %s", spec.name, spec.version, json.dumps(spec.verification))


if __name__ == "__main__":
    raise SystemExit(run(main, "export.to_onnx"))
