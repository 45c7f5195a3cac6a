"""Write files whole or not at all, and hash them."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["file_sha256", "write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, through a temporary file beside it."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
