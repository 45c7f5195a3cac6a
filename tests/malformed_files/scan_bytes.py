"""Small scans as bytes, with header fields and compression of a test's choice."""

from __future__ import annotations

import gzip
import struct
import zlib
from functools import cache
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SECRET = b"SECRET_PATIENT"
"""Stands in the text fields of every header: no answer and no log may repeat it."""

SHAPE = (20, 24, 18)
AFFINE = nib.affines.from_matvec(np.diag([-2.0, 2.5, 3.0]), [30.0, -20.0, 10.0])
HALF_MM = np.diag([0.5, 0.5, 0.5, 1.0])
"""512 voxels of half a millimetre are still a head's field of view."""

NETWORK = (91, 122, 123)
NETWORK_AFFINE = nib.affines.from_matvec(np.diag([1.5, 1.5, 1.5]), [-68.0, -90.0, -60.0])

CARRIERS = {
    "NIfTI-1": (nib.Nifti1Image, "<", False),
    "NIfTI-1 big-endian": (nib.Nifti1Image, ">", False),
    "NIfTI-1 gzip": (nib.Nifti1Image, "<", True),
    "NIfTI-2": (nib.Nifti2Image, "<", False),
    "NIfTI-2 big-endian gzip": (nib.Nifti2Image, ">", True),
}
"""Name of a form that a NIfTI file may have -> image class, byte order, compressed."""


def noise(shape: tuple[int, ...] = SHAPE, dtype: Any = np.int16) -> NDArray[Any]:
    """Values from 0 to 99: they compress, but not like a bomb."""
    return _noise(tuple(map(int, shape))).astype(dtype)


@cache
def _noise(shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, 100, shape)


@cache
def network_image() -> NDArray[np.uint8]:
    """Blocks of 8 voxels on the network grid; a slope of 1/255 brings them into [0, 1]."""
    blocks = np.random.default_rng(2).integers(0, 256, (12, 16, 16), dtype=np.uint8)
    x, y, z = NETWORK
    return blocks.repeat(8, 0).repeat(8, 1).repeat(8, 2)[:x, :y, :z].copy()


def nifti(
    array: NDArray[Any] | None = None,
    affine: NDArray[np.float64] = AFFINE,
    carrier: str = "NIfTI-1",
    **fields: Any,
) -> bytes:
    """A NIfTI file with qform and sform, and with unchecked values for some fields."""
    array = noise() if array is None else array
    kind, order, compressed = CARRIERS[carrier]
    header = kind.header_class(endianness=order)
    header.set_data_dtype(array.dtype)
    header["descrip"] = header["aux_file"] = header["intent_name"] = SECRET
    image = kind(array, affine, header, dtype=array.dtype)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    data = _with_fields(image.to_bytes(), kind.header_class, order, fields)
    return packed(data) if compressed else data


def network(carrier: str = "NIfTI-1", **fields: Any) -> bytes:
    """A scan for the preprocessing "none", apart from the fields that are set."""
    scaled = {"scl_slope": 1 / 255, "scl_inter": 0, **fields}
    return nifti(network_image(), NETWORK_AFFINE, carrier, **scaled)


def mgh(array: NDArray[Any] | None = None, **fields: Any) -> bytes:
    """An MGH file with unchecked values for some fields."""
    array = noise(dtype=np.float32) if array is None else array
    data = nib.MGHImage(array, AFFINE).to_bytes()
    return _with_fields(data, nib.freesurfer.mghformat.MGHHeader, ">", fields)


def _with_fields(data: bytes, kind: Any, order: str, fields: dict[str, Any]) -> bytes:
    """The file with fields of its header changed, unchecked, in the file's byte order."""
    layout = kind.template_dtype.newbyteorder(order)
    changed = bytearray(data)
    for name, value in fields.items():
        part, at = layout.fields[name][:2]
        with np.errstate(over="ignore", invalid="ignore"):
            raw = np.asarray(value, dtype=part.base).tobytes()
        changed[at : at + len(raw)] = raw
    return bytes(changed)


def claim(shape: tuple[int, int, int], datatype: Any) -> bytes:
    """The 352 bytes before the voxels, for a grid of half a millimetre."""
    header = nib.Nifti1Header()
    header.set_data_dtype(datatype)
    header["dim"] = [3, *shape, 1, 1, 1, 1]
    header["vox_offset"], header["descrip"] = 352, SECRET
    header.set_sform(HALF_MM, code=1)
    return bytes(header.binaryblock) + bytes(4)


# --- gzip ---


def packed(data: bytes) -> bytes:
    """The bytes as one gzip member, the same each time."""
    return gzip.compress(data, compresslevel=1, mtime=0)


def with_flag(member: bytes, flag: int, field: bytes) -> bytes:
    """A gzip member with one of the optional fields behind its header (RFC 1952, 2.3)."""
    return member[:3] + bytes([flag]) + member[4:10] + field + member[10:]


def padded(member: bytes, size: int) -> bytes:
    """A gzip member that a file name of `size` bytes makes look less compressed than it is."""
    return with_flag(member, 8, b"n" * (size - 1) + b"\0")


def repeated(piece: bytes, total_bytes: int) -> bytes:
    """Gzip members that inflate to a piece over and over, up to so many bytes."""
    unit = piece * ((16 << 20) // len(piece))
    rest = total_bytes % len(unit)
    member = gzip.compress(unit, compresslevel=6, mtime=0)
    return member * (total_bytes // len(unit)) + (packed(unit[:rest]) if rest else b"")


def one_member(head: bytes, zeros_bytes: int) -> bytes:
    """A gzip bomb in one member: a header and then zeros."""
    # each piece is compressed on its own, so that one is enough for all
    deflate, piece = zlib.compressobj(6, wbits=-15), bytes(1 << 20)
    first = deflate.compress(head) + deflate.flush(zlib.Z_FULL_FLUSH)
    next_piece = deflate.compress(piece) + deflate.flush(zlib.Z_FULL_FLUSH)
    count, checksum = zeros_bytes >> 20, zlib.crc32(head)
    for _ in range(count):
        checksum = zlib.crc32(piece, checksum)
    size = len(head) + count * len(piece)
    trailer = struct.pack("<II", checksum, size % (1 << 32))
    start = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    return start + first + next_piece * count + deflate.flush() + trailer


def stored_blocks(count: int) -> bytes:
    """A gzip file of so many empty DEFLATE blocks, which inflates to nothing."""
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    empty, last = b"\0\0\0\xff\xff", b"\1\0\0\xff\xff"
    return head + empty * count + last + struct.pack("<II", 0, 0)
