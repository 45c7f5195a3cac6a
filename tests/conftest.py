"""Fixtures for all tests: an analytic head phantom, NIfTI files of it, and the shared data."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

# before torch is imported: threads of tiny networks wait for each other longer than they work,
# and those that wait would keep a core from those that work
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# tests start many processes: without bytecode on disk each of them compiles the package again
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# first in the search path, also of the processes that tests start
QUICK_START = str(Path(__file__).with_name("quick_start"))
if QUICK_START not in sys.path:
    sys.path.insert(0, QUICK_START)
    search_path = [QUICK_START, os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, search_path))

SHARED = Path(os.environ.get("NEUROBENTO_SHARED") or Path(__file__).resolve().parents[2] / "shared")

BRAIN_RADII_MM = np.array([60.0, 75.0, 55.0])

BLOBS_MM = {
    # class: centre (x to the right, y to the front, z up) and radius
    1: ((-32.0, 22.0, 8.0), 16.0),
    2: ((30.0, -30.0, 12.0), 11.0),
    3: ((-12.0, -38.0, -14.0), 10.0),
    4: ((8.0, 42.0, -6.0), 9.0),
    5: ((14.0, 2.0, 36.0), 8.0),
}
"""No mirror twin among them: a flip of any axis moves every blob off itself."""

NETWORK = (91, 122, 123)
"""The network grid of report A, section 3.4."""

LANDMARK = 1
"""The blob that is also bright in the image; it lies on the left."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """A head phantom sampled on one grid.

    The world it stands in is fixed, so two phantoms on different grids are the
    same object, without any resampling between them.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.image.shape

    def scan(self) -> Any:
        """Return the phantom as a `Scan`, without a file."""
        from neurobento.imaging.scan import NativeSpace, Scan

        header = nib.Nifti1Image(self.labels, self.affine).header
        return Scan(self.image, NativeSpace(self.shape, self.affine, header))


def _grid_affine(
    shape: tuple[int, int, int],
    codes: str,
    sizes_mm: tuple[float, float, float],
    tilt_rad: float,
    centre_mm: tuple[float, float, float],
) -> NDArray[np.float64]:
    """An affine with the given axis codes whose grid is centred on `centre_mm`."""
    orientation = nib.orientations.axcodes2ornt(codes)
    linear = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(orientation):
        linear[int(world), axis] = sign * sizes_mm[axis]
    about_z = nib.eulerangles.euler2mat(z=tilt_rad, y=tilt_rad / 2, x=-tilt_rad / 3)
    linear = about_z @ linear
    offset = np.array(centre_mm) - linear @ (np.array(shape) - 1) / 2
    return nib.affines.from_matvec(linear, offset)


def _squared_distance(
    world: list[Any], centre: NDArray[np.float64], radii: NDArray[np.float64]
) -> Any:
    return sum(((world[row] - centre[row]) / radii[row]) ** 2 for row in range(3))


@functools.cache
def build_phantom(
    codes: str = "RAS",
    sizes_mm: tuple[float, float, float] = (4.0, 4.0, 4.0),
    tilt_rad: float = 0.0,
    shape: tuple[int, int, int] | None = None,
    centre_mm: tuple[float, float, float] = (3.0, -5.0, 2.0),
) -> Phantom:
    """The phantom on a grid that covers it, in any orientation; its arrays are read-only."""
    if shape is None:
        orientation = nib.orientations.axcodes2ornt(codes)
        margin_mm = 2 * BRAIN_RADII_MM + 24 + 60 * abs(tilt_rad)
        x, y, z = (
            int(margin_mm[int(w)] / size)
            for (w, _), size in zip(orientation, sizes_mm, strict=True)
        )
        shape = x, y, z
    affine = _grid_affine(shape, codes, sizes_mm, tilt_rad, centre_mm)
    index = np.indices(shape, sparse=True)
    world = [
        sum(affine[row, axis] * index[axis] for axis in range(3)) + affine[row, 3]
        for row in range(3)
    ]
    inside = _squared_distance(world, np.zeros(3), BRAIN_RADII_MM) < 1
    texture = 100 + 15 * np.cos(world[1] / 18) + 10 * np.sin(world[2] / 14)
    image = np.where(inside, texture, 0).astype(np.float32)
    labels = np.zeros(shape, dtype=np.uint8)
    for blob, (centre, radius) in BLOBS_MM.items():
        labels[_squared_distance(world, np.array(centre), np.full(3, radius)) < 1] = blob
    image[labels == LANDMARK] = 220
    for array in (image, labels, affine):
        array.setflags(write=False)
    return Phantom(image, labels, affine)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Reset torch to one thread; a backend of an earlier test may have raised it to all cores."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def phantom_on() -> Callable[..., Phantom]:
    """Build the phantom on any grid; see `build_phantom`."""
    return build_phantom


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    """The phantom on an LAS grid of 4 mm with axes of different lengths."""
    return build_phantom("LAS")


@pytest.fixture(scope="session")
def landmark_mm() -> NDArray[np.float64]:
    """The true position of the bright blob in world RAS; x is negative, so it lies on the left."""
    return np.array(BLOBS_MM[LANDMARK][0])


@pytest.fixture(scope="session")
def dice() -> Callable[[NDArray[np.uint8], NDArray[np.uint8], int], float]:
    """Overlap of one class in two label maps, 0 to 1."""

    def measure(a: NDArray[np.uint8], b: NDArray[np.uint8], index: int) -> float:
        total = int((a == index).sum() + (b == index).sum())
        return 2 * int(((a == index) & (b == index)).sum()) / total if total else 0.0

    return measure


@pytest.fixture
def write_nifti(tmp_path: Path) -> Callable[..., Path]:
    """Write an array as NIfTI below `tmp_path`, with qform and sform.

    Further keyword arguments set header fields, unchecked.
    """

    def write(
        array: NDArray[Any],
        affine: NDArray[np.float64] | None = None,
        name: str = "scan.nii.gz",
        kind: Any = nib.Nifti1Image,
        **fields: Any,
    ) -> Path:
        affine = np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine
        image = kind(np.asarray(array), affine, dtype=np.asarray(array).dtype)
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=1)
        data = bytearray(image.to_bytes())
        header_type = kind.header_class
        length = header_type.template_dtype.itemsize
        header = header_type(binaryblock=bytes(data[:length]), check=False)
        for field, value in fields.items():
            header[field] = value
        data[:length] = header.binaryblock
        path = tmp_path / name
        path.write_bytes(_gzipped(bytes(data)) if name.endswith(".gz") else bytes(data))
        return path

    return write


def _gzipped(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data, compresslevel=1, mtime=0)


@pytest.fixture(scope="session")
def known_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder models/regions with a model whose labels are known: k/116 is label k."""
    import onnx
    from onnx import TensorProto, helper

    from neurobento.files import file_sha256
    from neurobento.spec import ModelSpec

    folder = tmp_path_factory.mktemp("known") / "models" / "regions"
    folder.mkdir(parents=True)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, *NETWORK])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, ["N", *NETWORK])
    nodes = [
        helper.make_node("Squeeze", ["image", "axis"], ["flat"]),
        helper.make_node("Mul", ["flat", "classes"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["labels"], to=TensorProto.UINT8),
    ]
    constants = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("classes", TensorProto.FLOAT, [], [116.0]),
    ]
    graph = helper.make_graph(nodes, "known", [image], [labels], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    spec = ModelSpec(
        "regions", "0.0.1", "compact", file_sha256(folder / "model.onnx"), "0" * 64, 18
    )
    spec.write(folder / "spec.json")
    return folder


@pytest.fixture(scope="session")
def known_labels() -> Callable[[int], NDArray[np.uint8]]:
    """Labels on the network grid in blocks of 8 voxels, different for each seed.

    `labels / np.float32(116)` is the image that `known_model` gives them for.
    """

    def draw(seed: int) -> NDArray[np.uint8]:
        blocks = np.random.default_rng(seed).integers(0, 117, (12, 16, 16), dtype=np.uint8)
        x, y, z = NETWORK
        return blocks.repeat(8, 0).repeat(8, 1).repeat(8, 2)[:x, :y, :z].copy()

    return draw


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of public scans and references beside the repository."""
    return SHARED


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Send whole files to a worker, and all files of the export to one: they share an export."""
    from xdist.scheduler import LoadFileScheduling

    class ByArtefact(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "tests/export" if file.startswith("tests/export/") else file

    return ByArtefact(config, log)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m alone`, import only the files that name the marker."""
    if config.option.markexpr != "alone" or not collection_path.match("test_*.py"):
        return None
    return True if "mark.alone" not in collection_path.read_text() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need the shared folder or a GPU if there is none, with the reason."""
    from neurobento.backends.cuda import find_gpu

    lacking = {}
    if not (SHARED / "reference").is_dir():
        lacking["shared"] = (
            f"no shared data at {SHARED}: set NEUROBENTO_SHARED to the folder that holds them"
        )
    if find_gpu() is None:
        lacking["gpu"] = "no NVIDIA GPU with its driver, or no cuda-bindings"
    for item in items:
        for marker, reason in lacking.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
