"""Let `python -m benchmarks.cohort` run `benchmarks.cohort.run`."""

from benchmarks.cohort.run import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.cohort"))
