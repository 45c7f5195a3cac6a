"""Entry point of `python -m benchmarks.stability`."""

from benchmarks.stability.run import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.stability"))
