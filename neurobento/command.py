"""Run a command so that an expected error ends it with a message, not a traceback."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Callable

from neurobento.errors import NeuroBentoError

__all__ = ["run", "run_old_name"]


def run(command: Callable[[], int], name: str) -> int:
    """Return the command's status.

    After a NeuroBentoError or an OSError print it, after `name`, and return 1; after Ctrl-C say so
    in a line and return 130.
    """
    if threading.current_thread() is threading.main_thread():
        # Raise an exception, so that temporary folders are removed and child processes end.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return command()
    except NeuroBentoError as error:
        print(f"{name}: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"{name}: {where}{error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 1


def run_old_name(name: str, module: str) -> None:
    """Run the command of `module` if its old name, kept for one release, is the program."""
    if name == "__main__":
        raise SystemExit(run(importlib.import_module(module).main, module))
