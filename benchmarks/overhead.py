"""Old name of `benchmarks.service.overhead`, kept for one release."""

from benchmarks.service.overhead import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.service.overhead"))
