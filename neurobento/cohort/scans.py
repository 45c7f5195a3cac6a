"""Find the scans of a cohort, and choose the output folder of each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from neurobento.errors import ConfigError
from neurobento.imaging.scan import SUFFIXES, scan_name

__all__ = ["CohortScan", "find_scan_files", "find_scans"]

# Folders of a BIDS dataset that hold no raw scans of its own (BIDS 1.10, Common principles)
DERIVED = ("derivatives", "sourcedata")

# BIDS ends the names of T1-weighted scans with it
T1W = "_T1w"


@dataclass(frozen=True)
class CohortScan:
    """A scan of a cohort, and the folder for its outputs."""

    # Absolute
    path: Path
    # Below the cohort's output folder; it ends in the scan's name
    subfolder: PurePosixPath

    @property
    def name(self) -> str:
        """The beginning of its output files' names."""
        return self.subfolder.name

    @property
    def participant(self) -> str | None:
        """BIDS's `sub-LABEL`, of the file name or else of a folder."""
        return self._entity("sub")

    @property
    def session(self) -> str | None:
        """BIDS's `ses-LABEL`, of the file name or else of a folder."""
        return self._entity("ses")

    def _entity(self, key: str) -> str | None:
        for part in reversed(self.path.parts):
            match = re.match(rf"(?:.*_)?({key}-[A-Za-z0-9]+)(?:[_.]|$)", part)
            if match:
                return match[1]
        return None


def find_scan_files(inputs: Sequence[Path]) -> list[Path]:
    """Return the scans among files and in folders at any depth, each once, sorted by path.

    Links are followed, to folders too; one whose content is not there is returned as well. A link
    to a scan that is found itself is left out, and so is every name that begins with a dot.
    """
    scans = _each_once({file: linked for path in inputs for file, linked in _scan_files(path)})
    if not scans:
        raise _no_scan(inputs)
    return scans


def _each_once(linked: Mapping[Path, bool]) -> list[Path]:
    """Return files, sorted, without those that are others by a link; `linked` says which may be."""
    own = {os.path.realpath(file) for file, by_link in linked.items() if not by_link}
    return sorted(
        file for file, by_link in linked.items() if not by_link or os.path.realpath(file) not in own
    )


def _scan_files(path: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the files with a scan's suffix at or below a path, and whether a link leads there."""
    if path.is_dir():
        files = _files_below(path, frozenset(), False)
    else:
        path.lstat()
        files = iter([(path, path.is_symlink())])
    yield from ((file, link) for file, link in files if file.name.lower().endswith(SUFFIXES))


def _files_below(folder: Path, above: frozenset[str], linked: bool) -> Iterator[tuple[Path, bool]]:
    """Yield the files in a folder; `above` holds the real folders that led here."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in folder.iterdir():
        # macOS leaves files ._NAME beside what it copies; git and snapshots have hidden folders
        if path.name.startswith("."):
            continue
        by_link = linked or path.is_symlink()
        if path.is_dir():
            yield from _files_below(path, above | {real}, by_link)
        elif path.is_file() or path.is_symlink():
            yield path, by_link


def find_scans(inputs: Sequence[Path], output: Path) -> list[CohortScan]:
    """Return the scans of a cohort, sorted by path; raise ConfigError if two would share outputs.

    If a folder has scans named `_T1w`, its others are skipped, as are `derivatives`, `sourcedata`
    and the output folder. A single input folder is mirrored below the output folder; of several,
    each path is mirrored from its folder `sub-LABEL` on, else from the input folder's own name on.
    """
    mirror = len(inputs) == 1 and inputs[0].is_dir()
    scans: dict[Path, CohortScan] = {}
    for root in (_absolute(path) for path in inputs):
        for path in _scans_of_input(root, output.resolve()):
            relative = path.relative_to(root) if mirror else _relative_path(path, root)
            scans[path] = CohortScan(path, PurePosixPath(relative.parent, scan_name(path)))
    if not scans:
        raise _no_scan(inputs)
    in_order = [scans[path] for path in sorted(scans)]
    _require_separate_folders(in_order)
    return in_order


def _absolute(path: Path) -> Path:
    """Return an absolute path. Links to files stay: DataLad's targets have meaningless names."""
    return path.resolve() if path.is_dir() else path.parent.resolve() / path.name


def _scans_of_input(root: Path, output: Path) -> list[Path]:
    files = dict(_scan_files(root))
    if not root.is_dir():
        return list(files)
    scans = {
        path: linked
        for path, linked in files.items()
        if not path.is_relative_to(output) and not {*path.relative_to(root).parts} & {*DERIVED}
    }
    named = {path: linked for path, linked in scans.items() if scan_name(path).endswith(T1W)}
    return _each_once(named or scans)


def _relative_path(path: Path, root: Path) -> Path:
    """Return the output path of a scan that belongs to one of several inputs."""
    for depth, part in enumerate(path.parts[:-1]):
        if part.startswith("sub-"):
            return Path(*path.parts[depth:])
    top = root if root.is_dir() else root.parent
    return Path(top.name, path.relative_to(top))


def _require_separate_folders(scans: Sequence[CohortScan]) -> None:
    """Refuse scans whose outputs would share a folder, or lie in one another's."""
    by_subfolder: dict[PurePosixPath, CohortScan] = {}
    for scan in scans:
        if scan.subfolder in by_subfolder:
            raise _shared_folder(scan, by_subfolder[scan.subfolder])
        by_subfolder[scan.subfolder] = scan
    for scan in scans:
        for outer in scan.subfolder.parents:
            if outer in by_subfolder:
                raise _shared_folder(scan, by_subfolder[outer])


def _shared_folder(scan: CohortScan, other: CohortScan) -> ConfigError:
    return ConfigError(
        subject=str(scan.path),
        expected="scans with separate output folders",
        found=f"the output folder of {other.path}",
        remedy="Give the one folder that holds both scans, or rename one of them.",
    )


def _no_scan(inputs: Sequence[Path]) -> ConfigError:
    return ConfigError(
        subject=", ".join(str(path) for path in inputs),
        expected=f"scans ({', '.join(SUFFIXES)})",
        found="no scan",
        remedy="Give scan files, or folders that hold scans.",
    )
