"""Old name of `benchmarks.inference.memory`, kept for one release."""

from benchmarks.inference.memory import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.inference.memory"))
