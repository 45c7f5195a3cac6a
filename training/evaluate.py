"""Old name of `training.parcellation.evaluate`, kept for one release."""

from neurobento.command import run
from training.parcellation.evaluate import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "training.parcellation.evaluate"))
