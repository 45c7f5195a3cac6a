"""Old name of `training.parcellation.label`, kept for one release."""

from neurobento.command import run
from training.parcellation.label import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "training.parcellation.label"))
