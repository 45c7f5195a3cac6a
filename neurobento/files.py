"""Write files whole or not at all, hash them, and say why one cannot be read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

__all__ = ["describe_read_failure", "file_sha256", "write_atomically"]


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


def describe_read_failure(error: Exception) -> str:
    """Return what was found instead of a JSON file of the expected format, for an error message."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError):
        return "a file that cannot be read"
    if isinstance(error, UnicodeDecodeError | json.JSONDecodeError):
        return "a file that is not JSON"
    return "another format"
