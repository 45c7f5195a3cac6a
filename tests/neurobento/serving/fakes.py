"""A front without services behind it, for tests of the protocols in front of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import NETWORK_SHAPE, Grid
from neurobento.imaging.native_space import space_of
from neurobento.parcellation.parcellator import Parcellation, PreparedScan, restore_and_measure
from neurobento.serving.inference_protocol.protocol import OpenInference
from neurobento.serving.request import RequestContext
from neurobento.serving.tasks.parcellation.options import ParcellationOptions
from neurobento.serving.tasks.parcellation.tensors import ParcellationTensors
from neurobento.spec import ModelSpec

CONTENT = b"the bytes of a scan"
FACTS = {"model": {"name": "compact"}, "backend": {"name": "fake"}}
SPECS = [
    ModelSpec("compact", "1.2.0", "compact", "0" * 64, "0" * 64, 18),
    ModelSpec("unet", "0.3.0", "unet", "0" * 64, "0" * 64, 18),
]
NATIVE_SHAPE = (40, 50, 30)
NATIVE = nib.affines.from_matvec(np.diag([-4.0, 3.5, 5.0]), [80.0, -90.0, -70.0])
NETWORK = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.1]), [-68.0, -90.0, -60.0])


def labels_of(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Labels (N, 91, 122, 123) of images (N, 1, 91, 122, 123): k/116 is label k."""
    return np.rint(images[:, 0] * 116).astype(np.uint8)


class FakeFront:
    """Finds the same parcellation in whatever it is given, and remembers what it was asked.

    Parameters
    ----------
    labels
        On the network grid.
    error
        Raised instead of an answer.
    endless
        Whether work never ends by itself.
    """

    def __init__(
        self, labels: NDArray[np.uint8], error: Exception | None = None, endless: bool = False
    ) -> None:
        grid = Grid(NATIVE_SHAPE, NATIVE, NETWORK)
        image = np.zeros(NETWORK_SHAPE, np.float32)
        prepared = PreparedScan(
            image, grid, space_of(NATIVE_SHAPE, NATIVE), "full", {"spacing": 0.5}
        )
        self.parcellation = restore_and_measure(prepared, labels, {"infer": 0.1})
        self.error, self.endless = error, endless
        self.asked: list[ParcellationOptions] = []
        self.contents: list[bytes] = []
        self.calls: list[RequestContext] = []
        self.ended = 0

    async def facts(self, model: str) -> dict[str, Any]:
        """Model and backend."""
        return FACTS

    async def parcellate(
        self, file: Path, options: ParcellationOptions, call: RequestContext
    ) -> Parcellation:
        """The parcellation, of any file."""
        self.contents.append(file.read_bytes())
        await self._work(options, call)
        return self.parcellation

    async def segment(
        self, images: NDArray[np.float32], options: ParcellationOptions, call: RequestContext
    ) -> NDArray[np.uint8]:
        """Labels of images."""
        await self._work(options, call)
        return labels_of(images)

    async def _work(self, options: ParcellationOptions, call: RequestContext) -> None:
        self.asked.append(options)
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        if self.endless:
            await call.run(self._last())

    async def _last(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1


def inference_of(front: FakeFront) -> OpenInference:
    """The protocol with a front that parcellates behind it."""
    return OpenInference(SPECS, {"parcellation": ParcellationTensors(front)})  # type: ignore[arg-type]
