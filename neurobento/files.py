"""Write files whole or not at all, hold folders, hash files, and say why one cannot be read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from neurobento.errors import ConfigError, UnreadableScan

__all__ = [
    "describe_read_failure",
    "file_sha256",
    "hold_folder",
    "replacing",
    "require_regular_file",
    "write_atomically",
    "write_together",
]


LONGEST_WRITE_S = 2.0
"""Time that writing the files of one scan takes at most, on any disk but a broken one."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, through a temporary file beside it."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files (name -> content) into a folder, or none of them, as when the disk is full.

    Make the folder if there is none. The OSError of a failure names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            _hold_if_soon_free(stack, folder)
            # they take their places when all of them are written
            for name, content in files.items():
                if (folder / name).is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                stack.enter_context(replacing(folder / name)).write_bytes(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(folder)) from None


def _hold_if_soon_free(stack: ExitStack, folder: Path) -> None:
    """Hold a folder against another writer of files that belong together; none takes long."""
    end = time.monotonic() + LONGEST_WRITE_S
    while time.monotonic() < end:
        try:
            stack.enter_context(hold_folder(folder))
            return
        # a cohort holds its folder for hours, and writes nowhere that one scan's files go
        except ConfigError:
            time.sleep(0.02)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside a file; at the end it takes the file's place.

    If the block raises an exception, the file stays as it was. No two writers share a temporary
    file, and its name is short, however long the file's own is.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def hold_folder(folder: Path, remedy: str = "", *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process until the block ends, or the process dies.

    If another process holds it, wait for that one to end, or raise ConfigError with a remedy.
    """
    try:
        import fcntl
    except ImportError:
        # Windows locks no folders
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ConfigError(
                subject=str(folder),
                expected="a folder that no other process is working in",
                found="one that another process holds",
                remedy=remedy,
            ) from None
        except OSError:
            # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def require_regular_file(path: Path) -> None:
    """Raise UnreadableScan unless a path leads to a regular file; OSError if there is none."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not path.is_symlink():
            raise
        raise UnreadableScan(
            subject=str(path),
            expected="a regular file",
            found="a link whose content is not here",
            remedy="Fetch it first, for instance with `datalad get` or `git annex get`.",
        ) from None
    if stat.S_ISDIR(mode):
        raise UnreadableScan(
            subject=str(path),
            expected="a regular file",
            found="a folder",
            remedy="Use `neurobento cohort` for all scans in a folder.",
        )
    if not stat.S_ISREG(mode):
        raise UnreadableScan(
            subject=str(path),
            expected="a regular file",
            found="a pipe or a device",
            remedy="Save it as a file first.",
        )


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
