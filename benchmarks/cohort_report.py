"""Old name of `benchmarks.cohort.document`, kept for one release."""

from benchmarks.cohort.document import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.cohort.document"))
