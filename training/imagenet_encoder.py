"""Old name of `training.anomaly.imagenet_encoder`, kept for one release."""

from neurobento.command import run
from training.anomaly.imagenet_encoder import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "training.anomaly.imagenet_encoder"))
