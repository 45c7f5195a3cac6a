"""Fakes of handlers, services and runners: each answers by a simple rule and records its calls."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from neurobento.anomaly.detector import slice_anomaly
from neurobento.anomaly.fit import fit_slice
from neurobento.imaging.geometry import FINDER_SHAPE, NETWORK_SHAPE, Grid
from neurobento.imaging.native_space import space_of
from neurobento.imaging.scan import read_scan
from neurobento.imaging.slices.reader import read_slice
from neurobento.parcellation.parcellator import (
    Parcellation,
    PreparedScan,
    prepare,
    restore_and_measure,
)
from neurobento.preprocessing.brain import Brain
from neurobento.serving.inference_protocol.protocol import OpenInference
from neurobento.serving.pool.serialisation import pack_scan, pack_slice
from neurobento.serving.request import RequestContext
from neurobento.serving.tasks.anomaly.batches import pack_outputs
from neurobento.serving.tasks.anomaly.responses import Detection
from neurobento.serving.tasks.parcellation.image_files import segment_files
from neurobento.serving.tasks.parcellation.options import ParcellationOptions
from neurobento.serving.tasks.parcellation.tensors import ParcellationTensors
from neurobento.spec import REPORT_A_VERSION, ModelSpec
from tests.neurobento.anomaly.known_anomaly import THRESHOLD, KnownBackend
from tests.neurobento.imaging.slices.files import grey

CONTENT = b"the bytes of a scan"
FACTS = {"model": {"name": "regions"}, "backend": {"name": "fake"}}
SPECS = [
    ModelSpec("regions", "1.2.0", "compact", "0" * 64, "0" * 64, 18),
    ModelSpec("unet", "0.3.0", "unet", "0" * 64, "0" * 64, 18),
]
NATIVE_SHAPE = (40, 50, 30)
NATIVE = nib.affines.from_matvec(np.diag([-4.0, 3.5, 5.0]), [80.0, -90.0, -70.0])
BRAIN_GRID = nib.affines.from_matvec(np.diag([2.7] * 3), [-68.0, -90.0, -60.0])
NETWORK = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.1]), [-68.0, -90.0, -60.0])


def known_labels_of(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return labels (N, 91, 122, 123) of images (N, 1, 91, 122, 123): k/116 is label k."""
    return np.rint(images[:, 0] * 116).astype(np.uint8)


def inference_of(handler: FakeHandler) -> OpenInference:
    """Return the protocol's operations over a handler of parcellation."""
    return OpenInference(SPECS, {"parcellation": ParcellationTensors(handler)})  # type: ignore[arg-type]


class FakeHandler:
    """A parcellation handler that gives the same labels for every file.

    It raises `error` instead of an answer, and if `endless`, its work never ends by itself.
    """

    def __init__(
        self, labels: NDArray[np.uint8], error: Exception | None = None, endless: bool = False
    ) -> None:
        image, space = np.zeros(NETWORK_SHAPE, np.float32), space_of(NATIVE_SHAPE, NATIVE)
        grid = Grid(NATIVE_SHAPE, NATIVE, NETWORK)
        # all of the network's field of view is brain
        brain = Brain(np.full(FINDER_SHAPE, 255, np.uint8), BRAIN_GRID, tissue_ml=1000.0)
        prepared = PreparedScan(image, grid, space, "full", {"spacing": 0.5}, brain)
        self.parcellation = restore_and_measure(prepared, labels, {"infer": 0.1})
        self.error, self.endless = error, endless
        self.options: list[ParcellationOptions] = []
        self.contents: list[bytes] = []
        self.contexts: list[RequestContext] = []
        self.ended = 0

    async def facts(self, model: str) -> dict[str, Any]:
        return FACTS

    async def parcellate(
        self, file: Path, options: ParcellationOptions, context: RequestContext
    ) -> Parcellation:
        self.contents.append(file.read_bytes())
        await self._work(options, context)
        return self.parcellation

    async def segment(
        self, images: NDArray[np.float32], options: ParcellationOptions, context: RequestContext
    ) -> NDArray[np.uint8]:
        await self._work(options, context)
        return known_labels_of(images)

    async def _work(self, options: ParcellationOptions, context: RequestContext) -> None:
        self.options.append(options)
        self.contexts.append(context)
        if self.error is not None:
            raise self.error
        if self.endless:
            await context.run(self._wait_for_ever())

    async def _wait_for_ever(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1


class FakeAnomalyHandler:
    """An anomaly handler with one answer for every file; an image's score is its mean."""

    def __init__(self) -> None:
        pixels = grey().astype(np.float32)
        fitted = fit_slice(pixels)
        anomaly = slice_anomaly(fitted, float(fitted.image.mean()), fitted.image, THRESHOLD)
        self.detection = Detection(pixels, anomaly, fitted.image, FACTS, {"infer": 0.5})
        self.error: Exception | None = None
        self.contents: list[bytes] = []
        self.counts: list[int] = []

    async def facts(self, model: str) -> dict[str, Any]:
        return FACTS

    async def detect(self, file: Path, model: str, context: RequestContext) -> Detection:
        self.contents.append(file.read_bytes())
        if self.error is not None:
            raise self.error
        return self.detection

    async def score(self, images: Any, model: str, context: RequestContext) -> tuple[Any, Any]:
        self.counts.append(len(images))
        return images.mean(axis=(1, 2, 3)), images[:, 0]


class FakePreprocessing:
    """A preprocessing service that works in this process.

    It answers `packed` if that is given, raises `error`, or if `endless`, never answers.
    """

    def __init__(
        self,
        packed: dict[str, Any] | None = None,
        *,
        error: Exception | None = None,
        endless: bool = False,
    ) -> None:
        self.packed, self.error, self.endless = packed, error, endless
        self.requests: list[tuple[str, str, str]] = []
        self.versions: list[int] = []
        self.ended: list[str] = []
        self.begun = asyncio.Event()

    async def prepare(
        self, path: str, kind: str, ticket: str, version: int = REPORT_A_VERSION
    ) -> dict[str, Any]:
        self.requests.append((path, kind, ticket))
        self.versions.append(version)
        self.begun.set()
        if self.endless:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        if self.packed is not None:
            return self.packed
        image = Path(path).with_name(f"{ticket}.image")
        if kind == "slice":
            pixels = read_slice(Path(path))
            return pack_slice(pixels, fit_slice(pixels), {"decode": 0.2, "fit": 0.1}, image)
        scan = read_scan(Path(path))
        return pack_scan(prepare(scan, kind, version), image)  # type: ignore[arg-type]

    async def call(self, method: str) -> Any:
        self.ended.append(method)

    async def end(self, ticket: str) -> None:
        self.ended.append(ticket)
        if self.error is not None:
            raise self.error


class FakeSegmenter:
    """A runner that knows labels by intensity; an `offset` tells two of them apart."""

    def __init__(self, offset: int = 0, error: Exception | None = None) -> None:
        self.offset, self.error = offset, error
        self.described = 0
        self.sizes: list[int] = []

    async def segment(self, files: Any) -> Any:
        self.sizes.append(len(files))
        if self.error is not None:
            raise self.error
        return segment_files(files, SPECS[0], self._infer, lambda seconds: None)

    def _infer(self, images: Any) -> Any:
        return (known_labels_of(images) + np.uint8(self.offset)) % np.uint8(117)

    async def describe(self) -> dict[str, Any]:
        self.described += 1
        if self.error is not None:
            raise self.error
        return FACTS


class FakeDetector:
    """A runner of the known anomaly model: the error map is the image, the score its mean."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.sizes: list[int] = []

    async def detect(self, images: Any) -> Any:
        self.sizes.append(len(images))
        if self.error is not None:
            raise self.error
        return pack_outputs(KnownBackend().run(images), 0.125)

    async def describe(self) -> dict[str, Any]:
        return FACTS


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now
