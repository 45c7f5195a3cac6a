"""Files of other kinds that a client may mistake for a scan or send as an attack."""

from __future__ import annotations

import base64
import bz2
import io
import json
import lzma
import pickle
import struct
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.malformed_files.scan_bytes import AFFINE, NETWORK, SECRET, nifti, noise

CANARY = "neurobento-malformed-canary"
"""In the name of every file that an attack would create."""


class Harmful:
    """Opens a file for writing when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(Path(tempfile.gettempdir()) / CANARY), "w")


def foreign_files() -> dict[str, bytes]:
    """Name -> content; none of them is a NIfTI or MGH file, compressed or not."""
    return {**_texts(), **_archives(), **_code(), **_images(), **_disguised()}


def _texts() -> dict[str, bytes]:
    word = SECRET.decode()
    return {
        "text": b"this is no scan\n" * 50,
        "text of the header's first bytes": b"\\\1\0\0 " + SECRET * 40,
        "UTF-16": ("\ufeff" + word * 50).encode("utf-16"),
        "HTML": b"<!doctype html><title>502 Bad Gateway</title><p>" + SECRET * 20,
        "JSON": json.dumps({"file": word, "affine": [[float("nan")] * 4] * 4}).encode(),
        "XML entities": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>' * 9,
        "CSV": b"subject,age\n" + SECRET + b",63\n" * 99,
        "an address": b"http://127.0.0.1:9/scan.nii.gz",
        "a path": b"/etc/passwd",
        "format strings": b"%s%n%x{0}{config}${jndi:ldap://x}" * 30,
        "base64": base64.b64encode(nifti()),
        "hexadecimal": nifti().hex().encode(),
    }


def _zip(names: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in names.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return target.getvalue()


def _tar(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        content = b"" if link else nifti()
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def _archives() -> dict[str, bytes]:
    up = "../" * 12 + "tmp/" + CANARY
    return {
        "zip": _zip({"scan.nii": nifti()}),
        "zip with a path upwards": _zip({up: nifti()}),
        "zip bomb": _zip({"scan.nii": bytes(64 << 20)}),
        "empty zip": _zip({}),
        "tar": _tar("scan.nii"),
        "tar with a path upwards": _tar(up),
        "tar with a link": _tar("scan.nii", tarfile.SYMTYPE, "/etc/passwd"),
        "bzip2": bz2.compress(nifti()),
        "xz": lzma.compress(nifti()),
        "lzma": lzma.compress(nifti(), lzma.FORMAT_ALONE),
        "zlib": zlib.compress(nifti()),
        "raw DEFLATE": zlib.compress(nifti(), wbits=-15),
        "zstd": b"\x28\xb5\x2f\xfd\x24" + noise().tobytes(),
        "7z": b"7z\xbc\xaf\x27\x1c\0\4" + noise().tobytes(),
        "compress": b"\x1f\x9d\x90" + noise().tobytes(),
    }


def _npy(array: Any) -> bytes:
    target = io.BytesIO()
    np.save(target, array, allow_pickle=True)
    return target.getvalue()


def _code() -> dict[str, bytes]:
    return {
        **{f"pickle {n}": pickle.dumps(Harmful(), protocol=n) for n in (0, 2, 5)},
        "npy": _npy(noise()),
        "npy of objects": _npy(np.array([Harmful()], dtype=object)),
        "npz": _zip({"scan.npy": _npy(noise())}),
        "weights": _zip({"archive/data.pkl": pickle.dumps(Harmful(), protocol=2)}),
        "script": b"#!/bin/sh\ntouch /tmp/" + CANARY.encode() + b"\n",
        "ELF": b"\x7fELF\2\1\1" + bytes(500),
        "SQLite": b"SQLite format 3\0" + bytes(500),
    }


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    size = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(b"\0\0")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _dicom() -> bytes:
    """Explicit little-endian elements: a syntax, a patient's name, and pixels."""

    def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        long = kind in (b"OB", b"OW")
        length = struct.pack("<2xI" if long else "<H", len(value))
        return struct.pack("<HH", group, number) + kind + length + value

    syntax = element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1")
    name = element(0x10, 0x10, b"PN", SECRET)
    return syntax + name + element(0x7FE0, 0x10, b"OW", noise().tobytes())


def _images() -> dict[str, bytes]:
    analyze = nib.AnalyzeImage(noise(), AFFINE)
    nrrd = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 20 24 18\nencoding: raw\n\n"
    return {
        "PNG": _png(),
        "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + noise().tobytes()[:800],
        "GIF": b"GIF89a" + bytes(200),
        "PDF": b"%PDF-1.7\n" + SECRET * 50,
        "DICOM": bytes(128) + b"DICM" + _dicom(),
        "DICOM without a preamble": _dicom(),
        "DICOMDIR": bytes(128) + b"DICM" + bytes(600),
        "HDF5, as MINC": b"\x89HDF\r\n\x1a\n" + bytes(600),
        "NetCDF, as old MINC": b"CDF\1" + bytes(600),
        "NRRD": nrrd + noise().tobytes(),
        "Analyze": bytes(analyze.header.binaryblock) + noise().tobytes(),
        "AFNI": b"type = string-attribute\nname = IDCODE_STRING\n" * 20,
        "PAR": b"# === DATA DESCRIPTION FILE ===\n" * 30,
        "GIFTI": b'<?xml version="1.0"?><GIFTI Version="1.0">' + bytes(400),
        "voxels without a header": noise(NETWORK, np.uint8).tobytes(),
    }


def _disguised() -> dict[str, bytes]:
    scan = nifti()
    return {
        "a scan behind a line's end": b"\n" + scan,
        "a scan behind a byte order mark": b"\xef\xbb\xbf" + scan,
        "a scan behind zeros": bytes(512) + scan,
        "a scan without its first byte": scan[1:],
        "a scan backwards": scan[::-1],
        "a scan inverted": bytes(255 - value for value in scan[:4000]),
        "a scan in a multipart body": b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        + scan,
        "zeros": bytes(5000),
        "ones": b"\xff" * 5000,
        "blanks": b" " * 5000,
    }
