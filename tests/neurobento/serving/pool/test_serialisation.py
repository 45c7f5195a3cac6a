"""What is packed on one side is what comes out on the other."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento import errors
from neurobento.anomaly.fit import fit_slice
from neurobento.errors import NeuroBentoError
from neurobento.imaging.geometry import FINDER_SHAPE, Grid
from neurobento.imaging.scan import NativeSpace
from neurobento.parcellation.parcellator import PreparedScan
from neurobento.preprocessing.brain import Brain
from neurobento.serving.pool.serialisation import (
    pack_error,
    pack_scan,
    pack_slice,
    unpack_scan,
    unpack_slice,
)

SHAPE = (40, 50, 30)
NATIVE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([-1.1, 1.2, 1.3]), [33.3, -21.7, 9.1]
)
NETWORK = nib.affines.from_matvec(np.diag([0.9, 1.1, 0.7]), [-1 / 3, 2 / 7, 3.0])
KINDS = [getattr(errors, name) for name in errors.__all__]


@pytest.fixture(params=[nib.Nifti1Image, nib.Nifti2Image], ids=["NIfTI-1", "NIfTI-2"])
def prepared(request: pytest.FixtureRequest) -> PreparedScan:
    """With a header that carries more than the affine, and an image of noise."""
    header = request.param(np.zeros(SHAPE, np.int16), NATIVE).header
    header.set_qform(NATIVE, code=2)
    header.set_sform(NATIVE, code=4)
    header.set_xyzt_units("mm", "sec")
    image = np.random.default_rng(1).random((91, 122, 123), dtype=np.float32)
    space = NativeSpace(SHAPE, NATIVE, header)
    seconds = {"spacing": 0.1, "resize": 0.25}
    share = np.random.default_rng(2).integers(0, 256, FINDER_SHAPE, np.uint8)
    brain = Brain(share, np.diag([2.7, 2.7, 2.7, 1.0]), tissue_ml=1234.5)
    return PreparedScan(image, Grid(SHAPE, NATIVE, NETWORK), space, "stripped", seconds, brain)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "scan.image"


def crossed(values: dict[str, Any]) -> dict[str, Any]:
    """As the service sends it: pickled, arrays out of band and read-only."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(values, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])


def test_a_scan_comes_back_to_the_bit_with_its_grids_and_header(
    prepared: PreparedScan, file: Path
) -> None:
    back = unpack_scan(crossed(pack_scan(prepared, file)))
    assert back.image.dtype == np.float32
    assert np.array_equal(back.image, prepared.image)
    assert back.grid.native_shape == back.space.shape == SHAPE
    assert back.grid.native_voxel_to_ras.tobytes() == NATIVE.tobytes()
    assert back.space.voxel_to_ras.tobytes() == NATIVE.tobytes()
    assert back.grid.network_voxel_to_ras.tobytes() == NETWORK.tobytes()
    assert isinstance(back.space.shape, tuple)
    assert back.space.header.binaryblock == prepared.space.header.binaryblock
    assert back.space.header.sizeof_hdr == prepared.space.header.sizeof_hdr
    assert back.preprocessing == "stripped"
    assert back.seconds == {"spacing": 0.1, "resize": 0.25}
    assert isinstance(back.brain, Brain)
    assert prepared.brain is not None
    assert np.array_equal(back.brain.share, prepared.brain.share)
    assert np.array_equal(back.brain.voxel_to_ras, prepared.brain.voxel_to_ras)
    assert back.brain.tissue_ml == 1234.5


def test_a_scan_without_a_mask_comes_back_without_one(prepared: PreparedScan, file: Path) -> None:
    assert unpack_scan(crossed(pack_scan(replace(prepared, brain=None), file))).brain is None


def test_only_plain_values_and_arrays_cross(prepared: PreparedScan, file: Path) -> None:
    """So that the two sides may hold different versions of the classes."""
    plain = (str, bytes, tuple, dict, np.ndarray)
    packed = pack_scan(prepared, file)
    assert all(isinstance(value, plain) for value in packed.values())
    assert all(isinstance(value, (*plain, float)) for value in packed["brain"].values())


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_out_as_itself_without_its_subject(kind: type[NeuroBentoError]) -> None:
    error = kind(expected="a", found="b", remedy="C.", subject="/tmp/JANE_DOE.nii.gz")
    packed = pack_error(error)
    assert "JANE_DOE" not in repr(packed)
    with pytest.raises(NeuroBentoError) as caught:
        unpack_scan(crossed(packed))
    assert type(caught.value) is kind
    assert caught.value.parts == {**error.parts, "subject": None}


def test_when_to_try_again_comes_out_with_its_error() -> None:
    error = errors.ServiceUnavailable(expected="a", found="b", remedy="C.", retry_after_s=30.0)
    with pytest.raises(errors.ServiceUnavailable) as caught:
        unpack_scan(crossed(pack_error(error)))
    assert caught.value.retry_after_s == 30.0


@pytest.fixture
def pixels() -> Any:
    """A slice longer than wide, its head off the middle."""
    values = np.random.default_rng(2).random((90, 60), dtype=np.float32) * 0.05
    values[10:70, 15:55] += np.linspace(0.5, 1, 40, dtype=np.float32)
    return values


def test_a_slice_comes_back_to_the_bit(pixels: Any, file: Path) -> None:
    fitted = fit_slice(pixels)
    packed = pack_slice(pixels, fitted, {"decode": 0.1, "fit": 0.25}, file)
    plain = (str, int, tuple, dict, np.ndarray)
    assert all(isinstance(value, plain) for value in packed.values())
    back = unpack_slice(crossed(packed))
    assert np.array_equal(back.pixels, pixels)
    assert np.array_equal(back.fitted.image, fitted.image)
    found = back.fitted.shape, back.fitted.corner, back.fitted.edge
    assert found == (fitted.shape, fitted.corner, fitted.edge)
    assert np.array_equal(back.fitted.restore(fitted.image), fitted.restore(fitted.image))
    assert back.seconds == {"decode": 0.1, "fit": 0.25}


def test_a_slices_pixels_are_there_after_their_file_is_gone(pixels: Any, file: Path) -> None:
    """A picture is drawn once the upload's folder is removed."""
    back = unpack_slice(crossed(pack_slice(pixels, fit_slice(pixels), {}, file)))
    file.unlink()
    assert np.array_equal(back.pixels, pixels)


def test_unpacking_leaves_what_was_packed_as_it_is() -> None:
    packed = pack_error(errors.EmptyScan(expected="a", found="b", remedy="C."))
    before = dict(packed)
    for unpack in (unpack_scan, unpack_slice):
        with pytest.raises(errors.EmptyScan):
            unpack(packed)
        with pytest.raises(errors.EmptyScan):
            unpack(crossed(packed))
    assert packed == before
