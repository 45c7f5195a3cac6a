"""The folder of one running server: its temporary files, and two facts its processes share."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from neurobento.serving.settings import RUN_VARIABLE, run_folder

__all__ = ["RunFolder", "process_start_time", "remove_leftovers"]

PREFIX = "neurobento-run-"


class RunFolder:
    """The folder, as seen by the process that made it and by those that it started."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._drain, self._active = path / "drain", path / "inside"

    @classmethod
    def make(cls) -> RunFolder:
        """Make a folder that this process owns, and remove those of dead owners."""
        root = Path(tempfile.gettempdir())
        for folder in root.glob(f"{PREFIX}*"):
            if not _owner_is_alive(folder):
                shutil.rmtree(folder, ignore_errors=True)
        # mode 0700, as has what BentoML puts into it
        run = cls(Path(tempfile.mkdtemp(prefix=PREFIX)))
        run.temporary.mkdir(mode=0o700)
        # renamed when whole: another server that starts now may be reading it
        new = run.path / "owner.new"
        new.write_text(f"{os.getpid()} {process_start_time(os.getpid())}")
        new.rename(run.path / "owner")
        return run

    @classmethod
    def current(cls) -> RunFolder:
        """Return the folder of the server this process belongs to; make one if there is none."""
        path = run_folder()
        return cls.make() if path is None else cls(path)

    def make_current(self) -> None:
        """Use the folder in this process and all that it starts, also for temporary files."""
        os.environ[RUN_VARIABLE] = str(self.path)
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.temporary)

    @property
    def temporary(self) -> Path:
        """The folder for temporary files."""
        return self.path / "tmp"

    @property
    def draining(self) -> bool:
        """True while the server refuses new requests."""
        return self._drain.exists()

    def drain(self) -> None:
        """Make the server refuse new requests."""
        self._drain.touch()

    def write_active_requests(self, count: int) -> None:
        """Record how many requests are in progress."""
        # overwritten in place and never truncated, so that a reader sees one number or the other
        file = os.open(self._active, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(file, f"{count:9d}".encode())
        finally:
            os.close(file)

    @property
    def active_requests(self) -> int:
        """The number of requests in progress, as recorded last."""
        try:
            return int(self._active.read_text())
        except (OSError, ValueError):
            return 0

    def remove(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def remove_leftovers(*prefixes: str) -> None:
    """Remove temporary files with these prefixes, which no running process may be using."""
    for prefix in prefixes:
        for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _owner_is_alive(folder: Path) -> bool:
    try:
        pid, start = (folder / "owner").read_text().split()
        return process_start_time(int(pid)) == start
    # a folder without an owner is just being made, or is not ours
    except (OSError, ValueError):
        return not (folder / "owner").exists()


def process_start_time(pid: int) -> str:
    """Return when a process started, in ticks since boot; "none" for a dead or zombie process."""
    # a process id alone may be used again
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return "none"
    return "none" if fields[0] in "ZX" else fields[19]
