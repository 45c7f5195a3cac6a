"""Old name of `benchmarks.service.jobs`, kept for one release."""

from benchmarks.service.jobs import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.service.jobs"))
