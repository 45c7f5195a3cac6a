"""Entry point of `python -m benchmarks.container`."""

from benchmarks.container.run import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.container"))
