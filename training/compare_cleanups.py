"""Old name of `training.studies.compare_cleanups`, kept for one release."""

from neurobento.command import run
from training.studies.compare_cleanups import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "training.studies.compare_cleanups"))
