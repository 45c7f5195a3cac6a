"""Faulty values of single header fields in NIfTI and MGH files, and the errors they deserve."""

from __future__ import annotations

from typing import Any

import numpy as np

from neurobento.errors import (
    BadAffine,
    BadFieldOfView,
    BadVoxelSize,
    ConstantScan,
    MissingOrientation,
    NotFiniteScan,
    ScanError,
    TooManyVoxels,
    TruncatedScan,
    UnknownFormat,
    UnsupportedDatatype,
    UnsupportedDimensions,
)
from tests.malformed_files.scan_bytes import SHAPE

__all__ = ["Fault", "mgh_faults", "nifti_faults"]

Expected = tuple[type[ScanError], ...] | None
Fault = tuple[str, dict[str, Any], Expected]
"""Kind, fields, and the classes that are right; None where the file may stay readable."""

NAN, INF = np.nan, np.inf
BY_QFORM = {"sform_code": 0}
LARGEST = {1: 32767, 2: 1 << 40}
"""An axis that each version of NIfTI can state."""


def _dim(*lengths: int) -> dict[str, Any]:
    return {"dim": [len(lengths), *lengths, *[1] * (7 - len(lengths))]}


def nifti_faults(version: int) -> list[Fault]:
    """Every fault of NIfTI-1 or NIfTI-2."""
    return [
        *_dimension_faults(LARGEST[version]),
        *_datatype_faults(),
        *_size_faults(),
        *_contradictions(),
        *_affine_faults(),
        *_scaling_faults(),
        *_offset_faults(version),
        *_magic_faults(version),
        *_harmless(),
    ]


def _dimension_faults(largest: int) -> list[Fault]:
    x, y, z = SHAPE
    impossible = [0, 1, 2, -1, 8, 32767, -32768]
    lengths = [
        *((n, y, z) for n in (0, -1, -20, 1, 15, 513, largest, -largest)),
        *((x, y, n) for n in (0, 1, -18)),
        *((n,) * 3 for n in (0, -1, 1, 32767)),
        *((*SHAPE, n) for n in (0, -1, 2, 300)),
        *((*SHAPE, 1, 3), (*SHAPE, 1, 1, 1, 2), (*SHAPE, 2, 2, 2, 2), (x, y), (x,)),
    ]
    return [
        *(("dims", {"dim": [n, *SHAPE, 1, 1, 1, 1]}, (UnsupportedDimensions,)) for n in impossible),
        *(("dims", _dim(*each), (UnsupportedDimensions,)) for each in lengths),
        ("dims", _dim(512, 512, 512), (TooManyVoxels,)),
        ("dims", _dim(x, 240, z), (BadFieldOfView,)),
        *(("dims that lie", _dim(*each), (TruncatedScan,)) for each in ((40, y, z), (x, y, 160))),
        ("dims that lie", _dim(64, 64, 64), (TruncatedScan,)),
    ]


def _datatype_faults() -> list[Fault]:
    # binary, complex 64, RGB, all, float128, complex 128, complex 256, RGBA; the rest are unknown
    named = {1: 1, 32: 64, 128: 24, 255: 0, 1536: 128, 1792: 128, 2048: 256, 2304: 32}
    unknown = {0: 0, 3: 16, 7: 8, -4: 16, 9999: 16, 32767: 32767}
    return [
        *(
            ("datatype", {"datatype": code, "bitpix": bits}, (UnsupportedDatatype,))
            for code, bits in {**named, **unknown}.items()
        ),
        ("datatype that lies", {"datatype": 64, "bitpix": 64}, (TruncatedScan,)),
        ("datatype that lies", {"datatype": 8}, (TruncatedScan,)),
    ]


def _size_faults() -> list[Fault]:
    values = [0, -2, NAN, INF, -INF, 1e-30, 0.29, 7.1, 50, 1e30]
    sizes = [[1, *np.roll([value, 2, 2], axis), 0, 0, 0, 0] for value in values for axis in (0, 2)]
    rows = {"srow_x": [0, 0, 0, 30], "srow_y": [0, 0, 0, 0], "srow_z": [0, 0, 0, 0]}
    metres = {
        "srow_x": [0.002, 0, 0, 0],
        "srow_y": [0, 0.002, 0, 0],
        "srow_z": [0, 0, 0.002, 0],
    }
    return [
        *(("pixdim", {**BY_QFORM, "pixdim": each}, (BadVoxelSize,)) for each in sizes),
        ("sform of zeros", rows, (BadVoxelSize,)),
        ("sform in metres", metres, (BadVoxelSize,)),
    ]


def _contradictions() -> list[Fault]:
    """Sizes of voxels that the header states twice, and differently; the sform is 2, 2.5, 3 mm."""
    refused, told = (BadVoxelSize,), None
    factors = {0.4: refused, 0.49: refused, 0.6: told, 0.868: told, 1.3: told, 2.1: refused}
    sizes = np.array([2, 2.5, 3])
    return [
        *(
            ("contradiction", {"pixdim": [1, *(factor * sizes), 0, 0, 0, 0]}, expected)
            for factor, expected in factors.items()
        ),
        # one axis alone, and two that are exchanged
        ("contradiction", {"pixdim": [1, 2, 2.5, 6.9, 0, 0, 0, 0]}, refused),
        ("contradiction", {"pixdim": [1, 3, 2.5, 2, 0, 0, 0, 0]}, told),
    ]


def _affine_faults() -> list[Fault]:
    bad = (BadAffine,)
    numbers = {"srow_x": [-2, 0, 0, 30], "srow_y": [0, 2.5, 0, -20], "srow_z": [0, 0, 3, 10]}
    broken: list[Fault] = []
    for value in (NAN, INF, -INF, 1e30, 3e38):
        for row, column in (("srow_x", 0), ("srow_y", 3), ("srow_z", 2)):
            changed = np.array(numbers[row], dtype=float)
            changed[column] = value
            broken.append(("sform", {row: changed}, bad))
    flat = {"srow_x": [2, 2, 0, 0], "srow_y": [2, 2, 0, 0], "srow_z": [0, 0, 2, 0]}
    leaning = {"srow_x": [2, 2, 2, 0], "srow_y": [2, 2, 2, 0], "srow_z": [2, 2, 2.01, 0]}
    codes = [(0, 0), (-1, 0), (0, -1), (77, 0), (0, 6), (32767, -32768), (1, 256)]
    return [
        *broken,
        ("singular sform", flat, bad),
        ("singular sform", leaning, bad),
        *(
            ("qform", {**BY_QFORM, field: value}, bad)
            for field in ("quatern_b", "quatern_d", "qoffset_y")
            for value in (NAN, INF, 1e30)
        ),
        ("qform", {**BY_QFORM, "quatern_b": 0.9, "quatern_c": 0.9}, bad),
        *(
            ("qfac", {**BY_QFORM, "pixdim": [value, 2, 2.5, 3, 0, 0, 0, 0]}, bad)
            for value in (NAN, INF, 7, -0.5)
        ),
        *(
            ("orientation", {"qform_code": q, "sform_code": s}, (MissingOrientation,))
            for q, s in codes
        ),
    ]


def _scaling_faults() -> list[Fault]:
    return [
        *(
            ("intercept", {"scl_slope": 1, "scl_inter": value}, (NotFiniteScan,))
            for value in (NAN, INF, -INF)
        ),
        ("slope", {"scl_slope": 1e-30, "scl_inter": 5}, (ConstantScan,)),
    ]


def _offset_faults(version: int) -> list[Fault]:
    outside = [0, 1, 100, 347, -352, 1 << 30]
    outside += [NAN, INF, -INF, 1e30, -1e30] if version == 1 else [-(1 << 62), 1 << 62, 539]
    return [
        *(("voxel offset", {"vox_offset": value}, (UnknownFormat,)) for value in outside),
        *(
            ("voxel offset", {"vox_offset": value}, (TruncatedScan,))
            for value in (2000, 20000, 16 << 20)
        ),
    ]


def _magic_faults(version: int) -> list[Fault]:
    unknown = (UnknownFormat,)
    lengths = [0, 2, 284, 347, 349, 539, -1, -(1 << 31), (1 << 31) - 1]
    lengths.append({1: 540, 2: 348}[version])
    ends = [] if version == 1 else [b"\n\x1a\n\n", b"\r\r\n\x1a", b"\r\n\x1a\r"]
    return [
        *(
            ("magic", {"magic": value}, unknown)
            for value in (b"", b"ni1", b"n+0", b"n+3", b"N+1", b"n+1 ", b"\xff\xff\xff\xff")
        ),
        *(("header length", {"sizeof_hdr": value}, unknown) for value in lengths),
        *(("line ends", {"eol_check": np.frombuffer(value, np.int8)}, unknown) for value in ends),
    ]


def _harmless() -> list[Fault]:
    """Faults in fields that reading ignores: the file may be refused, or read as nibabel does."""
    some: list[dict[str, Any]] = [
        *({"bitpix": bits} for bits in (0, 1, 64, -16)),
        *({"scl_slope": slope, "scl_inter": 3} for slope in (0, NAN, INF, 1e30, 3e38, -1)),
        *({"pixdim": [1, size, 2, 2, 0, 0, 0, 0]} for size in (0, -2, NAN, INF, 1e30)),
        *({"pixdim": [qfac, 2, 2, 2, 0, 0, 0, 0]} for qfac in (0, NAN, 7)),
        {"quatern_b": NAN, "qoffset_x": INF},
        {"quatern_b": 0.9, "quatern_c": 0.9},
        {"descrip": b"\0" * 40 + b"\xff" * 40, "aux_file": b"\0\xc3\x28%s%n", "intent_code": -1},
        {"cal_max": NAN, "cal_min": INF, "slice_code": 99, "slice_start": -5, "xyzt_units": 255},
        {"dim": [3, *SHAPE, 0, -1, 7, 9]},
        {"datatype": 2, "bitpix": 8},
    ]
    return [("lies without effect", fields, None) for fields in some]


def mgh_faults() -> list[Fault]:
    """Every fault of MGH."""
    x, y, z = SHAPE
    dims = [(0, y, z, 1), (-1, y, z, 1), (x, y, 1, 1), (x, y, 1 << 30, 1), (-(1 << 31),) * 4]
    series = [(*SHAPE, n) for n in (0, -1, 2, 1 << 30)]
    return [
        *(("MGH dims", {"dims": each}, (UnsupportedDimensions,)) for each in (*dims, *series)),
        ("MGH dims", {"dims": (512, 512, 512, 1)}, (TooManyVoxels,)),
        ("MGH dims that lie", {"dims": (60, y, z, 1)}, (TruncatedScan,)),
        *(("MGH type", {"type": code}, (UnsupportedDatatype,)) for code in (-1, 2, 5, 7, 1 << 30)),
        *(("MGH version", {"version": value}, (UnknownFormat,)) for value in (0, 2, -1, 1 << 24)),
        *(
            ("MGH voxel sizes", {"delta": [2, size, 2]}, (BadVoxelSize,))
            for size in (0, -2, NAN, INF, 1e30, 0.1, 50)
        ),
        *(("MGH centre", {"Pxyz_c": [0, n, 0]}, (BadAffine,)) for n in (NAN, INF, 1e30)),
        *(
            ("MGH directions", {"Mdc": [[n, 0, 0], [0, 1, 0], [0, 0, 1]]}, (BadAffine,))
            for n in (NAN, INF)
        ),
        ("MGH directions", {"Mdc": np.full((3, 3), 0.577)}, (BadAffine,)),
        ("MGH directions", {"Mdc": np.zeros((3, 3))}, (BadVoxelSize,)),
        ("MGH orientation", {"goodRASFlag": 0}, (MissingOrientation,)),
    ]
