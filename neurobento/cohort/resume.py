"""What a finished piece of work leaves in its folder, by which a later run knows it again.

A record is a JSON file that holds what the work was made from and, under
"outputs", the SHA-256 of every file it left beside the record.
"""

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
    """An earlier run's record that still holds, or None.

    Parameters
    ----------
    path
        Of the record.
    made_from
        What it has to say about what the work was made from; JSON values. The
        outputs have to be as it says too.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        holds = all(record[key] == value for key, value in made_from.items()) and all(
            file_sha256(path.parent / name) == sha256 for name, sha256 in record["outputs"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if holds else None


def replace_folder(folder: Path, files: Mapping[str, bytes], prefix: str, parts: Path) -> None:
    """Put files into a folder of their own, all or none; an earlier run's folder is replaced.

    Parameters
    ----------
    folder
        Where to; its parents are made.
    files
        Name -> content.
    prefix
        What the names begin with. A folder that holds anything else is left alone.
    parts
        A folder on the same file system, for what is not whole yet.

    Raises
    ------
    ConfigError
        The folder holds something that is not of an earlier run.
    """
    staged = parts / uuid.uuid4().hex
    staged.mkdir()
    for name, content in files.items():
        (staged / name).write_bytes(content)
    _require_ours(folder, prefix)
    folder.parent.mkdir(parents=True, exist_ok=True)
    earlier = staged.with_suffix(".earlier")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(earlier)
    try:
        staged.rename(folder)
    except OSError as error:
        # a worker given up for dead lives after all, and has just put the same files there
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(staged, ignore_errors=True)
    shutil.rmtree(earlier, ignore_errors=True)


def _require_ours(folder: Path, prefix: str) -> None:
    try:
        foreign = [p for p in folder.iterdir() if not p.name.startswith(prefix) or p.is_dir()]
    except FileNotFoundError:
        return
    if foreign:
        raise ConfigError(
            subject=str(folder),
            expected="a new folder, or an earlier run's",
            found="one that holds other things",
            remedy="Choose another output folder.",
        )
