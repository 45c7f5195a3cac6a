"""Old name of `benchmarks.inference.bias_correction`, kept for one release."""

from benchmarks.inference.bias_correction import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.inference.bias_correction"))
