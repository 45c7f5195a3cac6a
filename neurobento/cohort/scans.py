"""Which scans a cohort is made of, and where the files of each one go."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from neurobento.errors import ConfigError
from neurobento.imaging.scan import SUFFIXES, scan_name

__all__ = ["CohortScan", "find_scan_files", "find_scans"]

DERIVED = ("derivatives", "sourcedata")
"""Folders of a BIDS dataset that hold no raw scans of its own (BIDS 1.10, Common principles)."""

T1W = "_T1w"
"""What BIDS ends the names of T1-weighted scans with."""


@dataclass(frozen=True)
class CohortScan:
    """A scan of a cohort.

    Attributes
    ----------
    path
        The file, absolute.
    place
        Its folder below the output folder; it ends in the scan's name.
    """

    path: Path
    place: PurePosixPath

    @property
    def name(self) -> str:
        """What its output files begin with."""
        return self.place.name

    @property
    def participant(self) -> str | None:
        """BIDS's `sub-LABEL`, of the file name or of a folder."""
        return self._entity("sub")

    @property
    def session(self) -> str | None:
        """BIDS's `ses-LABEL`."""
        return self._entity("ses")

    def _entity(self, key: str) -> str | None:
        for part in reversed(self.path.parts):
            found = re.match(rf"(?:.*_)?({key}-[A-Za-z0-9]+)(?:[_.]|$)", part)
            if found:
                return found[1]
        return None


def find_scan_files(inputs: Sequence[Path]) -> list[Path]:
    """The scans among files and in folders at any depth, each once, in order of path.

    Raises
    ------
    ConfigError
        There is none.
    FileNotFoundError
        One of the inputs is not there.
    """
    found = {scan for path in inputs for scan in _files(path) if scan.name.endswith(SUFFIXES)}
    if not found:
        raise _none(inputs)
    return sorted(found)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        # macOS leaves files ._NAME beside what it copies
        yield from (p for p in path.rglob("*") if not p.name.startswith(".") and p.is_file())
    else:
        path.stat()
        yield path


def find_scans(inputs: Sequence[Path], output: Path) -> list[CohortScan]:
    """The scans of a cohort, in order of path.

    Of a folder with names that end in `_T1w` only those scans are taken, and nothing
    of folders `derivatives` and `sourcedata`; nothing of the output folder either.
    A single folder is mirrored below the output folder. Of several inputs each is
    mirrored from its folder `sub-LABEL` on, or else below its own folder's name.

    Parameters
    ----------
    inputs
        Scan files, and folders of them at any depth.
    output
        Where the cohort's files go.

    Raises
    ------
    ConfigError
        There is none, or the files of two would get mixed.
    FileNotFoundError
        One of the inputs is not there.
    """
    alone = len(inputs) == 1 and inputs[0].is_dir()
    scans: dict[Path, CohortScan] = {}
    for root in (_absolute(path) for path in inputs):
        for path in _of_input(root, output.resolve()):
            below = path.relative_to(root) if alone else _below(path, root)
            scans[path] = CohortScan(path, PurePosixPath(below.parent, scan_name(path)))
    if not scans:
        raise _none(inputs)
    found = [scans[path] for path in sorted(scans)]
    _require_apart(found)
    return found


def _absolute(path: Path) -> Path:
    """The path from the root on; links to files stay: DataLad's lead to names that say nothing."""
    return path.resolve() if path.is_dir() else path.parent.resolve() / path.name


def _of_input(root: Path, output: Path) -> list[Path]:
    """The scans of one input."""
    if not root.is_dir():
        return [path for path in _files(root) if path.name.endswith(SUFFIXES)]
    found = [
        path
        for path in find_scan_files([root])
        if not path.is_relative_to(output) and not {*path.relative_to(root).parts} & {*DERIVED}
    ]
    return [path for path in found if scan_name(path).endswith(T1W)] or found


def _below(path: Path, root: Path) -> Path:
    """Where a scan of one of several inputs goes."""
    for depth, part in enumerate(path.parts[:-1]):
        if part.startswith("sub-"):
            return Path(*path.parts[depth:])
    top = root if root.is_dir() else root.parent
    return Path(top.name, path.relative_to(top))


def _require_apart(scans: Sequence[CohortScan]) -> None:
    """Refuse, before hours of work, scans whose files would lie in one another's folders."""
    at: dict[PurePosixPath, CohortScan] = {}
    for scan in scans:
        if scan.place in at:
            raise _mixed(scan, at[scan.place])
        at[scan.place] = scan
    for scan in scans:
        for outer in scan.place.parents:
            if outer in at:
                raise _mixed(scan, at[outer])


def _mixed(scan: CohortScan, other: CohortScan) -> ConfigError:
    return ConfigError(
        subject=str(scan.path),
        expected="scans whose outputs lie apart",
        found=f"that they would go where those of {other.path} go",
        remedy="Name the one folder that holds both, or rename one of them.",
    )


def _none(inputs: Sequence[Path]) -> ConfigError:
    return ConfigError(
        subject=", ".join(str(path) for path in inputs),
        expected=f"scans ({', '.join(SUFFIXES)})",
        found="none",
        remedy="Name scan files or folders that hold them.",
    )
