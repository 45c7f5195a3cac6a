"""A folder of one running server: its temporary files, and what its processes tell each other.

It goes with the server. One that a killed server left behind goes when the
next one starts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["RUN_VARIABLE", "RunFolder", "remove_left", "start_of"]

RUN_VARIABLE = "NEUROBENTO_RUN"
PREFIX = "neurobento-run-"


class RunFolder:
    """The folder, as the process that made it and those started by it see it.

    Parameters
    ----------
    path
        Of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._drain, self._inside = path / "drain", path / "inside"

    @classmethod
    def make(cls) -> RunFolder:
        """A new folder, owned by this process; those of dead owners are removed first."""
        root = Path(tempfile.gettempdir())
        for left in root.glob(f"{PREFIX}*"):
            if not _owner_lives(left):
                shutil.rmtree(left, ignore_errors=True)
        # 0700, as what BentoML puts inside
        run = cls(Path(tempfile.mkdtemp(prefix=PREFIX)))
        run.temporary.mkdir(mode=0o700)
        # whole or not there: another server that starts now may be reading it
        new = run.path / "owner.new"
        new.write_text(f"{os.getpid()} {start_of(os.getpid())}")
        new.rename(run.path / "owner")
        return run

    @classmethod
    def current(cls) -> RunFolder:
        """The folder of the server that this process belongs to; a new one if there is none."""
        path = os.environ.get(RUN_VARIABLE)
        return cls(Path(path)) if path else cls.make()

    def be_current(self) -> None:
        """Have this process, and all that it starts, keep temporary files in the folder."""
        os.environ[RUN_VARIABLE] = str(self.path)
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.temporary)

    @property
    def temporary(self) -> Path:
        """Where temporary files go."""
        return self.path / "tmp"

    @property
    def draining(self) -> bool:
        """Whether the server is to take no more requests."""
        return self._drain.exists()

    def drain(self) -> None:
        """Say that the server is to take no more requests."""
        self._drain.touch()

    def say_inside(self, count: int) -> None:
        """Say how many requests are under way."""
        # written over, never cut to nothing first: a reader sees the one number or the other
        file = os.open(self._inside, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(file, f"{count:9d}".encode())
        finally:
            os.close(file)

    @property
    def inside(self) -> int:
        """How many requests are under way, as was said last."""
        try:
            return int(self._inside.read_text())
        except (OSError, ValueError):
            return 0

    def remove(self) -> None:
        """End of the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


def remove_left(*prefixes: str) -> None:
    """Remove temporary files and folders that a killed process of this kind left behind.

    Parameters
    ----------
    prefixes
        Of their names; nothing else that runs may be using such.
    """
    for prefix in prefixes:
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _owner_lives(folder: Path) -> bool:
    try:
        pid, start = (folder / "owner").read_text().split()
        return start_of(int(pid)) == start
    # a folder without an owner is just being made, or is not ours
    except (OSError, ValueError):
        return not (folder / "owner").exists()


def start_of(pid: int) -> str:
    """When a process began, in ticks since boot: a process id alone may be used again.

    "none" for one that is over, also if its parent has not asked for its end yet.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return "none"
    return "none" if fields[0] in "ZX" else fields[19]
