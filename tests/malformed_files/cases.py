"""Malformed files for every interface of neurobento; equal seeds give equal files.

The named kinds come first, then random damage to good files.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np

from neurobento.errors import (
    ConfigError,
    ConstantScan,
    CorruptCompression,
    EmptyScan,
    NeuroBentoError,
    NotFiniteScan,
    NotOnNetworkGrid,
    OverlongScan,
    ScanError,
    SuspiciousCompression,
    TooManyVoxels,
    TruncatedScan,
    UnknownFormat,
    UnsupportedDatatype,
    UnsupportedDimensions,
    WrongKindOfImage,
)
from tests.malformed_files.foreign_files import CANARY, foreign_files
from tests.malformed_files.header_faults import mgh_faults, nifti_faults
from tests.malformed_files.scan_bytes import (
    CARRIERS,
    NETWORK,
    NETWORK_AFFINE,
    SHAPE,
    claim,
    mgh,
    network,
    network_image,
    nifti,
    noise,
    one_member,
    packed,
    padded,
    repeated,
    stored_blocks,
    with_flag,
)

__all__ = ["Case", "bad_requests", "damaged", "malformed"]

Expected = tuple[type[NeuroBentoError], ...] | None


@dataclass(frozen=True)
class Case:
    """One file that a client may send.

    Attributes
    ----------
    name
        `kind: what it is`.
    content, file_name
        What is sent, and under which name.
    expected
        The error classes that are right for it; None if it may also be taken.
    """

    name: str
    content: bytes
    expected: Expected
    file_name: str = "scan.nii.gz"
    # Options of the request; what has others than `preprocessing` is for services alone.
    options: Mapping[str, str] = field(default_factory=lambda: {"preprocessing": "none"})
    # Content-Encoding of an HTTP request, and how much of its coded body is sent.
    coding: str = ""
    sent_share: float = 1.0

    @property
    def kind(self) -> str:
        """The kind of damage."""
        return self.name.split(":")[0]


def malformed(seed: int, count: int) -> Iterator[Case]:
    """Return that many files for the preprocessing "none", most of them malformed.

    Parameters
    ----------
    seed
        Of the random damage; what has a name is the same for all seeds.
    count
        Not fewer than there are named ones, or those are cut short.
    """
    made = 0
    for source in (*NAMED, lambda: damaged(seed)):
        for case in source():
            if made == count:
                return
            made += 1
            yield case


# --- by name ---


def _headers() -> Iterator[Case]:
    for carrier, (kind, _, _) in CARRIERS.items():
        for name, fields, expected in nifti_faults(1 if kind is nib.Nifti1Image else 2):
            what = f"{name}: {fields} in {carrier}"
            yield Case(what, nifti(None, carrier=carrier, **fields), expected)
    for name, fields, expected in mgh_faults():
        yield Case(f"{name}: {fields}", mgh(**fields), expected, "scan.mgh")
        yield Case(f"{name}: {fields}, gzip", packed(mgh(**fields)), expected, "scan.mgz")
    swapped = nifti()[3::-1] + nifti()[4:]
    yield Case("header length: in the other byte order", swapped, (ScanError,))


def _truncated() -> Iterator[Case]:
    # behind MGH's voxels are 20 bytes of scan parameters that nobody needs
    whole = {"NIfTI-1": nifti(), "NIfTI-2": nifti(carrier="NIfTI-2"), "MGH": mgh()[:-20]}
    least = {"NIfTI-1": 348, "NIfTI-2": 8, "MGH": 5}
    for form, data in whole.items():
        cuts = {0, 1, 2, 3, 4, 5, 7, 8, 12, 100, 283, 284, 343, 344, 347, 348, 351, 352, 353}
        cuts |= {539, 540, 543, 544, 545, len(data) // 2, len(data) - 2, len(data) - 1}
        for cut in sorted(cuts):
            expected = (TruncatedScan,) if cut >= least[form] else (UnknownFormat,)
            yield Case(f"truncated: {form} after {cut}", data[:cut], expected)
            yield Case(f"truncated: {form} after {cut}, gzip", packed(data[:cut]), expected)
    member = nifti(carrier="NIfTI-1 gzip")
    for cut in (2, 3, 5, 9, 10, 11, 30, len(member) // 2, *range(len(member) - 9, len(member))):
        yield Case(f"truncated gzip: after {cut}", member[:cut], (CorruptCompression,))


def _foreign() -> Iterator[Case]:
    for name, content in foreign_files().items():
        yield Case(f"another kind of file: {name}", content, (UnknownFormat,))
        yield Case(f"another kind of file: {name}, gzip", packed(content), (UnknownFormat,))
    text = nifti(network_image()[:40, :40, :40], carrier="NIfTI-2").replace(b"\r\n", b"\n")
    yield Case("transfer as text: line ends", text, (ScanError,))
    recoded = nifti(scl_slope=-1, scl_inter=0).decode("latin-1").encode()
    yield Case("transfer as text: UTF-8", recoded, (ScanError,))


def _gzip() -> Iterator[Case]:
    scan, member = nifti(), nifti(carrier="NIfTI-1 gzip")
    corrupt: dict[str, bytes] = {
        "wrong checksum": member[:-6] + bytes([member[-6] ^ 1]) + member[-5:],
        "wrong length": member[:-1] + bytes([member[-1] ^ 1]),
        "no compression method": member[:2] + b"\0" + member[3:],
        "method 7": member[:2] + b"\7" + member[3:],
        "reserved flags": member[:3] + b"\xe0" + member[4:],
        "wrong header checksum": with_flag(member, 2, b"\1\2"),
        "extra field that lies": with_flag(member, 4, b"\xff\xff"),
        "name without an end": with_flag(member, 8, b"n" * (1 << 20))[: 1 << 20],
        "comment without an end": with_flag(member, 16, b"c" * (1 << 16))[: 1 << 16],
        "block of a reserved type": member[:10] + b"\7" + member[11:],
        "stored block whose lengths disagree": member[:10] + b"\1\5\0\5\0" + member[15:],
        "noise behind the magic": b"\x1f\x8b" + np.random.default_rng(3).bytes(3000),
        "text behind the magic": b"\x1f\x8b\x08\0" + b"SECRET_PATIENT" * 99,
        "text behind the end": member + b"and so on",
        "half a magic behind the end": member + b"\x1f",
        "half a member behind the end": member + member[:50],
        "a broken member behind the end": member + member[:10] + b"\7" + member[11:],
        "noise behind zeros behind the end": member + bytes(99999) + b"x",
        "the scan, uncompressed, behind the end": member + scan,
    }
    for name, content in corrupt.items():
        yield Case(f"broken gzip: {name}", content, (CorruptCompression,))
    yield Case("gzip of gzip: twice", packed(member), (UnknownFormat,))
    yield Case("gzip of gzip: three times", packed(packed(member)), (UnknownFormat,))
    yield Case("gzip members: a scan twice", member + member, None)
    large = network("NIfTI-1 gzip")
    yield Case("gzip members: a large scan twice", large + large, (OverlongScan,))
    single = b"".join(packed(bytes([value])) for value in scan)
    yield Case("gzip members: one for each byte", single, (SuspiciousCompression,))


def _bombs() -> Iterator[Case]:
    most = (512, 512, 256)
    zeros = repeated(bytes(1 << 20), 10 << 30)
    inflated, empty = (SuspiciousCompression,), packed(b"")
    yield Case("bomb: 10 GB of zeros", zeros, (UnknownFormat,))
    for datatype in (np.uint8, np.float32):
        for size in (most, (100, 100, 100)):
            content = packed(claim(size, datatype)) + zeros
            what = f"10 GB, honest at first, {size} {np.dtype(datatype)}"
            yield Case(f"bomb: {what}", content, (SuspiciousCompression, OverlongScan))
    yield Case("bomb: one member", one_member(claim(most, np.uint8), 256 << 20), inflated)
    yield Case("bomb: 64 MB as claimed", one_member(claim(most, np.uint8), 64 << 20), inflated)
    yield Case("bomb: padded", packed(claim(most, "f4")) + padded(zeros, 100_000), inflated)
    yield Case("bomb: 512 MB", packed(claim(most, "f8")) + zeros, (TooManyVoxels,))
    yield Case("bomb: of bombs", packed(zeros[: 1 << 20]), (UnknownFormat,))
    for count in (2_000, 400_000):
        yield Case(f"empty members: {count}", empty * count, inflated)
        head = packed(claim(SHAPE, np.int16))
        yield Case(f"empty members: {count} behind a header", head + empty * count, inflated)
    yield Case("empty blocks: none", stored_blocks(0), (UnknownFormat,))
    yield Case("empty blocks: a million", stored_blocks(1_000_000), (UnknownFormat,))
    # as much as the gate lets through: the padding hides how little is behind it
    hollow: list[tuple[str, Any, bytes, Expected]] = [
        ("64 MB of ones", np.uint8, b"\1", (ConstantScan,)),
        ("256 MB of NaN", np.float32, struct.pack("<f", np.nan), (NotFiniteScan,)),
        ("256 MB of zeros", np.int32, bytes(4), (EmptyScan,)),
    ]
    for name, datatype, voxel, expected in hollow:
        size = (1 << 26) * len(voxel)
        head = padded(packed(claim(most, datatype)), size // 240)
        piece = voxel * ((1 << 20) // len(voxel))
        yield Case(f"hollow: {name}", head + repeated(piece, size), expected)
        short = head + repeated(piece, size - (1 << 20))
        yield Case(f"hollow: {name}, but for the last", short, (TruncatedScan,))


def _voxels() -> Iterator[Case]:
    for dtype in ("u1", "i2", "f4", "f8"):
        yield Case(f"all zero: {dtype}", nifti(noise(dtype=dtype) * 0), (EmptyScan,))
        yield Case(f"constant: {dtype}", nifti(noise(dtype=dtype) * 0 + 7), (ConstantScan,))
    filled: dict[str, tuple[float, Expected]] = {
        "NaN": (np.nan, (NotFiniteScan,)),
        "infinity": (np.inf, (NotFiniteScan,)),
        "minus zero": (-0.0, (EmptyScan,)),
        "huge": (1e300, (NotFiniteScan,)),
        "denormal": (1e-310, (EmptyScan,)),
    }
    for name, (value, expected) in filled.items():
        for carrier in ("NIfTI-1", "NIfTI-2 big-endian gzip"):
            array = np.full(SHAPE, value)
            yield Case(f"voxels: {name} in {carrier}", nifti(array, carrier=carrier), expected)
        some = np.where(noise() > 50, value, 0)
        found: Expected = (EmptyScan,)
        yield Case(f"voxels: {name} in some, zero in the rest", nifti(some), found)
        mixed = np.where(noise() > 50, value, noise(dtype="f8"))
        yield Case(f"voxels: {name} in some", nifti(mixed), (NotOnNetworkGrid,))
    yield Case("voxels: float32's largest", nifti(noise(dtype="f4") * 3e36), (NotOnNetworkGrid,))
    for dtype in ("c8", "c16", [("R", "u1"), ("G", "u1"), ("B", "u1")]):
        array = np.zeros(SHAPE, np.dtype(dtype))
        yield Case(f"colour and complex: {dtype}", nifti(array), (UnsupportedDatatype,))
    for shape in ((*SHAPE, 2), (*SHAPE, 1, 3), (1, 1, 1), (20, 24, 1), (20,), (20, 24)):
        yield Case(f"shape: {shape}", nifti(noise(shape)), (UnsupportedDimensions,))


def _off_the_grid() -> Iterator[Case]:
    refused, image = (NotOnNetworkGrid,), network_image()
    yield Case("network grid: in the scanner's units", network(scl_slope=1), refused)
    yield Case("network grid: below zero", network(scl_inter=-0.5), refused)
    yield Case("network grid: just above one", network(scl_slope=1.01 / 255), refused)
    yield Case("network grid: to the left", network(srow_x=[-1.5, 0, 0, 68]), refused)
    yield Case("network grid: one slice less", nifti(image[..., 1:], NETWORK_AFFINE), refused)
    turned = nifti(image.transpose(2, 1, 0).copy(), NETWORK_AFFINE)
    yield Case("network grid: axes swapped", turned, refused)
    yield Case("network grid: cut short", network()[:-9], (TruncatedScan,))
    few = {"dim": [3, *SHAPE, 1, 1, 1, 1]}
    yield Case("network grid: dims that lie", network(**few), (OverlongScan,))
    yield Case("network grid: dims that lie, gzip", packed(network(**few)), (OverlongScan,))
    blank = nifti(np.zeros(NETWORK, np.uint8), NETWORK_AFFINE)
    yield Case("network grid: blank", blank, (EmptyScan,))
    bomb = packed(blank)
    yield Case("network grid: blank, gzip", bomb, (EmptyScan, SuspiciousCompression))


def _labels() -> Iterator[Case]:
    """Masks and label maps where a scan is due, before any brain is looked for."""
    blocks = np.random.default_rng(4).integers(0, 5, (6, 7, 6), np.uint8)
    coarse = blocks.repeat(8, 0).repeat(8, 1).repeat(8, 2)
    arrays = {
        "mask": (coarse > 0).astype(np.uint8),
        "mask of 255": 255 * (coarse > 0).astype(np.uint8),
        "label map": coarse,
        "label map of floats": coarse.astype(np.float32),
        "large numbers": coarse.astype(np.int16) * 1000,
    }
    for name, array in arrays.items():
        for carrier in ("NIfTI-1 gzip", "NIfTI-2"):
            content = nifti(array, carrier=carrier)
            stripped = {"preprocessing": "stripped"}
            yield Case(
                f"labels: {name} in {carrier}", content, (WrongKindOfImage,), options=stripped
            )


def bad_requests(over_http: bool) -> Iterator[Case]:
    """Yield a good file in requests that a service must not understand otherwise than meant."""
    good = network(carrier="NIfTI-1 gzip")
    misspelt = ("preprocesing", "Preprocessing", "preproc", "spaces", "level", "threads")
    for name in (*misspelt, "a" * 500, "JANE DOE", "preprocessing ", "préprocessing", "__proto__"):
        options = {"preprocessing": "none", name: "none"}
        yield Case(f"option: {name[:20]!r}", good, (ConfigError,), options=options)
    for value in ("true", "0", "", "None", "null", "[]", "none,full"):
        options = {"preprocessing": value}
        yield Case(f"option: preprocessing={value!r}", good, (ConfigError,), options=options)
    if not over_http:
        return
    for coding in ("gzip", "x-gzip", "deflate", "GZIP", "identity"):
        yield Case(f"coding: {coding}", good, None, coding=coding)
    for coding in ("br", "zstd", "compress", "gzip, gzip", "gzip;q=1", "x" * 300):
        yield Case(f"unknown coding: {coding[:20]}", good, (), coding=coding)
    for coding in ("gzip", "deflate"):
        for share in (0.0, 0.01, 0.5, 0.999):
            name = f"coding cut short: {coding} after {share:g}"
            yield Case(name, good, (), coding=coding, sent_share=share)


def _names() -> Iterator[Case]:
    """Good files on another grid, with names that try to reach other folders."""
    tmp = f"{tempfile.gettempdir()}/{CANARY}"
    names = [
        *(f"{'../' * n}{CANARY}.nii.gz" for n in (1, 2, 6)),
        *("../" * 12 + tmp.lstrip("/"), "..\\" * 6 + CANARY, tmp, f"file://{tmp}", f"~/{CANARY}"),
        *(f"%2e%2e%2f%2e%2e%2f{CANARY}", f"..%252f..%252f{CANARY}", f"..%c0%af..%c0%af{CANARY}"),
        *(f"....//....//{CANARY}", f"./{CANARY}/", f"C:\\{CANARY}", f"\\\\host\\share\\{CANARY}"),
        *(f"{CANARY}\0.nii.gz", f"\0{CANARY}", f"{CANARY}\r\nX-Evil: 1", f"{CANARY}\n", "\0"),
        *(f'{CANARY}"; name="model', f"{CANARY}'", f"{CANARY}; touch {tmp}", f"$(touch {tmp})"),
        *(f"`touch {tmp}`", f"|touch {tmp}", f"{CANARY}%s%n", f"{{{CANARY}}}", f"-{CANARY}"),
        *("", ".", "..", "/", "//", " ", "scan.nii.gz/", "/etc/passwd", "/dev/zero", "/dev/stdin"),
        *(f"{CANARY}\u202egz.iin", f"\ufeff{CANARY}", f"\ud7ff{CANARY}", "\U0001f9e0" * 60),
        *("n" * 5000 + CANARY, "d/" * 900 + CANARY, "con", "nul.nii", f"{CANARY}.nii:stream"),
        *(f"http://127.0.0.1:9/{CANARY}", f"<script>{CANARY}</script>", f"' OR 1=1; --{CANARY}"),
    ]
    for name in names:
        yield Case(f"file name: {name[:60]!r}", nifti(), (NotOnNetworkGrid,), name)


NAMED: tuple[Callable[[], Iterator[Case]], ...] = (
    *(_names, _labels, _voxels, _off_the_grid, _gzip, _bombs, _foreign, _truncated, _headers),
)


# --- by chance ---


def damaged(seed: int) -> Iterator[Case]:
    """Yield randomly damaged files without end."""
    random = np.random.default_rng(seed)
    good = [nifti(carrier=carrier) for carrier in CARRIERS if "gzip" not in carrier]
    good += [mgh(), nifti(sform_code=0)]
    ways = (_bytes_replaced, _bytes_moved, _bytes_cut, _bits_flipped_in_gzip, _noise)
    for number in range(1 << 62):
        for way in ways:
            data = good[number % len(good)]
            case = way(data, random)
            yield Case(f"{case.name}: {number}", case.content, case.expected)
        if number % 8 == 0:
            case = _bytes_replaced(network(), random)
            yield Case(f"{case.name} on the network grid: {number}", case.content, None)


def _bytes_replaced(data: bytes, random: np.random.Generator) -> Case:
    changed = bytearray(data)
    for at in random.integers(4, 360, random.integers(1, 12)):
        changed[at] = random.choice([0, 1, 127, 128, 255, int(random.integers(256))])
    return Case("bytes replaced", bytes(changed), None)


def _bytes_moved(data: bytes, random: np.random.Generator) -> Case:
    at, size = (int(n) for n in random.integers(1, 400, 2))
    ways = [
        data[:at] + data[at + size :],
        data[:at] + random.bytes(size) + data[at:],
        data[:at] + data[at : at + size] * 2 + data[at + size :],
    ]
    return Case("bytes moved", ways[random.integers(3)], None)


def _bytes_cut(data: bytes, random: np.random.Generator) -> Case:
    cut = int(random.integers(len(data) - 40))
    return Case("bytes cut", data[:cut], (TruncatedScan, UnknownFormat))


def _bits_flipped_in_gzip(data: bytes, random: np.random.Generator) -> Case:
    changed = bytearray(packed(data))
    # neither the time and system in gzip's header, nor the last byte's unused bits
    for at in random.integers(10, len(changed) - 9, random.integers(1, 4)):
        changed[at] ^= 1 << random.integers(8)
    return Case("bits flipped in gzip", bytes(changed), (ScanError,))


def _noise(_: bytes, random: np.random.Generator) -> Case:
    return Case("noise", random.bytes(int(random.integers(1, 2000))), (UnknownFormat,))
