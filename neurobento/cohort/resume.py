"""Keep a JSON record of inputs and hashes beside outputs, so that a later run skips them."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurobento.errors import ConfigError
from neurobento.files import file_sha256

__all__ = ["matching_record", "replace_folder"]


def matching_record(path: Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an earlier run's record if it says `made_from` and its outputs are unchanged."""
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        matches = all(record[key] == value for key, value in made_from.items()) and all(
            file_sha256(path.parent / name) == sha256 for name, sha256 in record["outputs"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if matches else None


def replace_folder(folder: Path, files: Mapping[str, bytes], prefix: str, staging: Path) -> None:
    """Write files (name -> content) into a folder, all or none, in place of an earlier run's.

    ConfigError if the folder holds other files than those with the prefix. The staging folder, for
    incomplete files, must be on the same file system.
    """
    # write everything beside the target first
    new = staging / uuid.uuid4().hex
    new.mkdir()
    for name, content in files.items():
        (new / name).write_bytes(content)
    _require_own_files(folder, prefix)
    # then swap the folders by renaming
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = new.with_suffix(".earlier")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError as error:
        # a worker that was given up for dead has just put the same files there
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _require_own_files(folder: Path, prefix: str) -> None:
    try:
        foreign = [p for p in folder.iterdir() if not p.name.startswith(prefix) or p.is_dir()]
    except FileNotFoundError:
        return
    if foreign:
        raise ConfigError(
            subject=str(folder),
            expected="a new folder, or one that an earlier run wrote",
            found=f"a folder with {len(foreign)} other file(s) or folder(s)",
            remedy="Choose another output folder.",
        )
