"""Entry point of `python -m benchmarks.cohort`."""

from benchmarks.cohort.run import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.cohort"))
