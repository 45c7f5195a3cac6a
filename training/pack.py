"""Old name of `training.parcellation.pack`, kept for one release."""

from neurobento.command import run
from training.parcellation.pack import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "training.parcellation.pack"))
