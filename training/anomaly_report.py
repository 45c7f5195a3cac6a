"""Old name of `training.anomaly.report`, kept for one release."""

from neurobento.command import run
from training.anomaly.report import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "training.anomaly.report"))
