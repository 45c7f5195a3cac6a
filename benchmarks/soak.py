"""Old name of `benchmarks.service.soak`, kept for one release."""

from benchmarks.service.soak import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.service.soak"))
