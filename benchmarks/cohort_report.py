"""Old name of `benchmarks.cohort.report`, kept for one release."""

from benchmarks.cohort.report import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.cohort.report"))
