"""Old name of `benchmarks.inference.latency`, kept for one release."""

from benchmarks.inference.latency import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.inference.latency"))
