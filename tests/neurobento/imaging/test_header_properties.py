"""NIfTI-1 headers that hypothesis makes up: each is read as it stands, or refused by a leaf."""

from __future__ import annotations

import gzip
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurobento.errors import ScanError
from neurobento.imaging.scan import Scan, label_bytes, read_scan
from tests.malformed_files.process import memory_bytes, reset_peak
from tests.malformed_files.scan_bytes import SECRET, noise, packed

MAX_S, MAX_BYTES = 2.0, 300_000_000
TRAILING_BYTES = 1 << 20
"""What may stand behind the voxels."""

MORE = np.random.default_rng(2).bytes(1 << 10) * 1025

HEADER = nib.Nifti1Header.template_dtype
DATATYPES = {
    **dict(zip((2, 4, 8, 1024), ("u1", "i2", "i4", "i8"), strict=True)),
    **dict(zip((256, 512, 768, 1280), ("i1", "u2", "u4", "u8"), strict=True)),
    **dict(zip((16, 64), ("f4", "f8"), strict=True)),
}
"""NIfTI-1's code of each datatype that is read (nifti1.h), and NumPy's."""

TEXT = dict.fromkeys(("data_type", "db_name", "descrip", "aux_file", "intent_name"), SECRET)

pytestmark = pytest.mark.slow


class Sent:
    """A file as it is sent, the bytes that it stands for, and how it was made."""

    def __init__(self, content: bytes, plain: bytes, made: dict[str, Any]) -> None:
        self.content, self.plain, self.made = content, plain, made

    def __repr__(self) -> str:
        return f"Sent({self.made})"


def many(examples: int) -> settings:
    """Run that many examples, the same in each run; `check` measures their time."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        # the phase left out, which explains a failure, traces each line of every example
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=slow,
    )


# --- what is drawn ---


def between(least: float, most: float) -> st.SearchStrategy[float]:
    return st.floats(np.float32(least).item(), np.float32(most).item(), width=32)


def edges(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


FLOATS = st.floats(width=32) | edges(
    *(0.0, -0.0, 1.0, -1.0, 0.29, 0.3, 7.0, 7.1, 352.0, 1e6, 1e30, -1e30, 3.4e38, 1e-45),
    *(math.nan, math.inf, -math.inf),
)
SHORTS = st.integers(-(1 << 15), (1 << 15) - 1) | edges(
    *(-(1 << 15), -1, 0, 1, 2, 15, 16, 18, 512, 513, (1 << 15) - 1)
)
INTS = st.integers(-(1 << 31), (1 << 31) - 1) | edges(0, 1, 1 << 24, 284, 348, 540, 1543569408)
CODES = st.integers(0, 5) | SHORTS

# of a field that is an array, one element
FAULTS: dict[str, st.SearchStrategy[Any]] = {
    "sizeof_hdr": INTS,
    "magic": st.binary(max_size=4) | edges(b"n+1", b"ni1", b"n+2", b"n+1\n"),
    "dim": st.integers(0, 8) | st.integers(16, 20) | SHORTS,
    "datatype": edges(*DATATYPES, 0, 1, 32, 128, 1536, 1792, 2304) | SHORTS,
    "bitpix": SHORTS,
    "pixdim": FLOATS,
    "vox_offset": FLOATS | between(340, 400) | edges(347.9, 348.0, 352.5, 16777568.0, 1e8),
    **dict.fromkeys(("scl_slope", "scl_inter", "cal_max", "cal_min", "toffset"), FLOATS),
    **dict.fromkeys(("qform_code", "sform_code"), CODES),
    **dict.fromkeys(("quatern_b", "quatern_c", "quatern_d"), FLOATS | between(-1.1, 1.1)),
    **dict.fromkeys(("qoffset_x", "qoffset_y", "qoffset_z"), FLOATS),
    **dict.fromkeys(("srow_x", "srow_y", "srow_z"), FLOATS | between(-7, 7)),
    **dict.fromkeys(("intent_p1", "intent_p2", "intent_p3", "slice_duration"), FLOATS),
    **dict.fromkeys(("intent_code", "slice_start", "slice_end"), SHORTS),
    **dict.fromkeys(("xyzt_units", "slice_code", "dim_info"), st.integers(0, 255)),
}


@st.composite
def sound(draw: st.DrawFn) -> dict[str, Any]:
    """The fields of a header that places a few voxels anywhere, in any way NIfTI-1 knows."""
    unit = between(-1, 1)
    axis = np.array(draw(st.tuples(unit, unit, unit)))
    quaternion = axis / max(1.0, float(np.linalg.norm(axis)) * 1.001)
    sizes = draw(st.tuples(*[between(0.5, 6)] * 3))
    offsets = draw(st.tuples(*[between(-300, 300)] * 3))
    qfac = draw(edges(-1.0, 0.0, 1.0))
    rows = qform_affine(quaternion, sizes, offsets, qfac)
    codes = st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(any)
    qform_code, sform_code = draw(edges((1, 0), (0, 1)) | codes)
    lengths = draw(st.tuples(*[st.integers(16, 20)] * 3))
    datatype = draw(edges(*DATATYPES))
    return {
        "sizeof_hdr": 348,
        "magic": b"n+1",
        "dim": (draw(st.integers(3, 7)), *lengths, 1, 1, 1, 1),
        "datatype": datatype,
        "bitpix": 8 * np.dtype(DATATYPES[datatype]).itemsize,
        "pixdim": (qfac, *sizes, 0, 0, 0, 0),
        "vox_offset": draw(st.integers(352, 400)),
        "scl_slope": draw(between(0.01, 100) | edges(0.0, math.nan)),
        "scl_inter": draw(between(-100, 100)),
        "qform_code": qform_code,
        "sform_code": sform_code,
        **dict(zip(("quatern_b", "quatern_c", "quatern_d"), quaternion, strict=True)),
        **dict(zip(("qoffset_x", "qoffset_y", "qoffset_z"), offsets, strict=True)),
        **dict(zip(("srow_x", "srow_y", "srow_z"), map(tuple, rows[:3]), strict=True)),
    }


@st.composite
def whole(draw: st.DrawFn, faults: int = 0) -> Sent:
    """A valid file with at most that many header fields set to anything."""
    fields = draw(sound())
    array = noise(fields["dim"][1:4], DATATYPES[fields["datatype"]])
    gap = bytes(fields["vox_offset"] - 352)
    order = draw(edges("<", ">"))
    if faults:
        for name in draw(st.lists(edges(*FAULTS), min_size=1, max_size=faults)):
            value = draw(FAULTS[name])
            if isinstance(old := fields.get(name), tuple):
                at = draw(st.integers(0, len(old) - 1))
                value = (*old[:at], value, *old[at + 1 :])
            fields[name] = value
    header = np.zeros((), HEADER.newbyteorder(order))
    for name, value in (TEXT | fields).items():
        header[name] = value
    stored = array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")
    plain = header.tobytes() + bytes(4) + gap + stored
    return sent(plain, draw(st.booleans()), fields | {"order": order})


def sent(plain: bytes, compressed: bool, made: dict[str, Any]) -> Sent:
    return Sent(packed(plain) if compressed else plain, plain, made | {"gzip": compressed})


@st.composite
def malformed(draw: st.DrawFn) -> Sent:
    """A file with a few wrong fields, perhaps cut or extended, perhaps compressed."""
    file = draw(whole(faults=5))
    data, length = file.plain, len(file.plain)
    change = draw(edges("none", "none", "none", "cut", "extended"))
    if change == "cut":
        data = data[: draw(st.integers(0, length) | st.integers(0, 360))]
    if change == "extended":
        data += MORE[: draw(st.integers(1, 100) | st.integers(TRAILING_BYTES, len(MORE)))]
    return sent(data, file.made["gzip"], file.made | {"bytes": len(data), "of": length})


# --- what has to come of it ---


def qform_affine(quaternion: Any, sizes: Any, offsets: Any, qfac: float) -> NDArray[np.float64]:
    """Voxel index -> RAS in mm by method 2 of the NIfTI-1 standard (nifti1.h), written out."""
    b, c, d = (float(value) for value in quaternion)
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    rotation = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    x, y, z = (float(size) for size in sizes)
    affine = np.eye(4)
    affine[:3, :3] = np.array(rotation) * [x, y, -z if qfac < 0 else z]
    affine[:3, 3] = offsets
    return affine


def order_of(plain: bytes) -> str:
    """The byte order in which the header's length is 348."""
    return "<" if plain[:4] == (348).to_bytes(4, "little") else ">"


def stated_affine(fields: Any) -> NDArray[np.float64]:
    """The sform if it is set, else the qform."""
    if fields["sform_code"]:
        rows = [fields[row] for row in ("srow_x", "srow_y", "srow_z")]
        return np.array([*rows, [0, 0, 0, 1]], dtype=np.float64)
    return qform_affine(
        [fields[f"quatern_{name}"] for name in "bcd"],
        fields["pixdim"][1:4],
        [fields[f"qoffset_{name}"] for name in "xyz"],
        float(fields["pixdim"][0]),
    )


def stated_values(plain: bytes, fields: Any, count: int) -> NDArray[np.float64]:
    """The voxels behind the offset, scaled where the slope is a number other than zero.

    NaN where float32, in which the scan is scaled, may not hold what is stored or multiplied.
    """
    datatype = np.dtype(DATATYPES[int(fields["datatype"])]).newbyteorder(order_of(plain))
    start = int(fields["vox_offset"])
    stored = np.frombuffer(plain, datatype, count, start).astype(np.float64)
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    scaled = math.isfinite(slope) and slope != 0
    product = stored * slope if scaled else stored
    product[~(np.maximum(np.abs(stored), np.abs(product)) < 1e38)] = np.nan
    return product + intercept if scaled else product


def check_scan(scan: Scan, plain: bytes) -> None:
    """Check that the scan is what the header says, and that labels can be written onto its grid."""
    fields = np.frombuffer(plain[:348], HEADER.newbyteorder(order_of(plain)))[0]
    assert fields["sizeof_hdr"] == 348
    lengths = fields["dim"][1 : 1 + fields["dim"][0]].tolist()
    assert (*scan.shape, *[1] * (len(lengths) - 3)) == tuple(lengths)
    assert scan.array.shape == scan.shape
    assert scan.array.dtype == np.float32
    assert np.isfinite(scan.array).all()
    assert np.isfinite(scan.voxel_to_ras).all()
    assert np.allclose(scan.voxel_to_ras, stated_affine(fields), rtol=0, atol=0.01)

    values = stated_values(plain, fields, math.prod(lengths))
    found = scan.array.ravel(order="F").astype(np.float64)
    told = np.abs(values) < 1e38
    scale = np.abs(values) + abs(np.nan_to_num(float(fields["scl_inter"])))
    assert (np.abs(found - values)[told] <= 1e-6 * scale[told] + 1e-37).all()

    labels = gzip.decompress(label_bytes(np.ones(scan.shape, np.uint8), scan.space))
    assert SECRET not in labels
    affine = nib.Nifti1Image.from_bytes(labels).affine
    assert np.allclose(affine, scan.voxel_to_ras, rtol=1e-5, atol=1e-3)


def check_refusal(error: ScanError) -> None:
    """Check that the error is a leaf and repeats nothing from the file."""
    assert type(error).__subclasses__() == []
    assert "SECRET" not in error.public_message
    assert "scan.nii" not in error.public_message
    assert error.public_message.isprintable()
    assert len(error.public_message) < 400


Check = Callable[[Sent], str]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Read a file and return `Scan`, or the name of the error's class."""
    path = tmp_path / "scan.nii"

    def reads(file: Sent) -> str:
        path.write_bytes(file.content)
        reset_peak()
        before, start = memory_bytes("VmRSS"), time.process_time()
        result: Scan | ScanError
        try:
            result = read_scan(path)
        except ScanError as error:
            result = error
        assert time.process_time() - start < MAX_S
        assert memory_bytes("VmHWM") - before < MAX_BYTES
        if isinstance(result, Scan):
            check_scan(result, file.plain)
        else:
            check_refusal(result)
        return type(result).__name__

    return reads


def test_any_header_is_read_as_it_stands_or_refused_by_a_leaf(check: Check) -> None:
    kinds: Counter[str] = Counter()

    @many(1200)
    @given(malformed())
    def law(file: Sent) -> None:
        kinds[check(file)] += 1

    law()
    # a generator whose files all end at the same gate would prove little
    assert kinds.total() - kinds["Scan"] >= 600, kinds
    assert kinds["Scan"] >= 100, kinds
    assert len(kinds) > 7, kinds


def test_any_sound_header_is_read_and_a_gzip_stream_cut_anywhere_is_no_scan(check: Check) -> None:
    @many(100)
    @given(whole())
    def sound_header(file: Sent) -> None:
        assert check(file) == "Scan"

    @many(50)
    @given(whole(), st.integers(1, 1 << 16))
    def cut_stream(file: Sent, lost: int) -> None:
        member = packed(file.plain)
        cut = member[: max(2, len(member) - lost)]
        assert check(Sent(cut, file.plain, file.made)) == "CorruptCompression"

    sound_header()
    cut_stream()
