"""Old name of `training.studies.reference_shares`, kept for one release."""

from neurobento.command import run
from training.studies.reference_shares import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "training.studies.reference_shares"))
