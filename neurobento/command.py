"""How every command of this repository ends when something is wrong: a message, not a traceback."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable

from neurobento.errors import NeuroBentoError

__all__ = ["run"]


def run(command: Callable[[], int], name: str) -> int:
    """The command's exit status; 1 and a message on stderr where it raised an error of ours.

    Parameters
    ----------
    command
        What to run.
    name
        What the user typed, to begin the message with.
    """
    if threading.current_thread() is threading.main_thread():
        # as an exception, so that temporary folders go and child processes end
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return command()
    except NeuroBentoError as error:
        print(f"{name}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"{name}: {error.filename}: {error.strerror}", file=sys.stderr)
    return 1
