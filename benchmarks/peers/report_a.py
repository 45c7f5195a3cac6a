"""Serve as report A's section 4.2 does: PyTorch eager behind FastAPI, without batching.

    python -m benchmarks.peers.report_a --model unet --port 8000

Each scan is prepared, predicted and written within its request, one after another. Preprocessing
and weights are those of our service, so that only the way of serving differs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import nibabel as nib
import numpy as np
from fastapi import FastAPI, HTTPException, Query, UploadFile
from fastapi.responses import FileResponse
from numpy.typing import NDArray
from starlette.background import BackgroundTask

from neurobento.command import run
from neurobento.errors import ScanError
from neurobento.imaging.scan import read_scan
from neurobento.networks.weights import load_network
from neurobento.preprocessing import preprocess
from neurobento.registry import WEIGHTS_FILE, find_model
from neurobento.spec import REPORT_A_VERSION

__all__ = ["Predict", "application", "main", "pytorch_predictor"]

Predict = Callable[[NDArray[np.float32]], NDArray[np.uint8]]
"""Return the labels of one image on the network grid."""

ModelName = Annotated[str, Query(alias="model")]


def pytorch_predictor(weights: Path, threads: int) -> Predict:
    """Return a network in eager mode and single precision, on a GPU if there is one."""
    import torch

    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_network(weights).to(device)

    def predict(image: NDArray[np.float32]) -> NDArray[np.uint8]:
        with torch.no_grad():
            labels = network.labels(torch.from_numpy(image[None, None]).to(device))  # type: ignore[operator]
        return np.asarray(labels[0].cpu().numpy(), np.uint8)

    return predict


def application(model: str, predict: Predict) -> FastAPI:
    """Return the application that serves one model under the name that requests give."""
    app = FastAPI()

    @app.post("/predict/")
    async def answer(
        file: UploadFile, preprocessing: bool = False, model_name: ModelName = model
    ) -> FileResponse:
        if model_name != model:
            raise HTTPException(404, f"expected the model {model}; found another name.")
        folder = tempfile.TemporaryDirectory(prefix="report-a-")
        scan, output = Path(folder.name, "scan"), Path(folder.name, "labels.nii.gz")
        scan.write_bytes(await file.read())
        try:
            prepared = preprocess(
                read_scan(scan), "full" if preprocessing else "none", version=REPORT_A_VERSION
            )
        except ScanError as error:
            folder.cleanup()
            raise HTTPException(422, error.public_message) from None
        labels = predict(prepared.image)
        nib.save(nib.Nifti1Image(labels, prepared.grid.network_voxel_to_ras), output)
        done = BackgroundTask(folder.cleanup)
        return FileResponse(output, media_type="application/gzip", background=done)

    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.report_a")
    parser.add_argument("--model", default="unet")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    weights = find_model(args.model).folder / WEIGHTS_FILE
    app = application(args.model, pytorch_predictor(weights, args.threads))
    uvicorn.run(app, host="127.0.0.1", port=args.port, access_log=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.peers.report_a"))
