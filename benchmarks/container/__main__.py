"""Let `python -m benchmarks.container` run `benchmarks.container.run`."""

from benchmarks.container.run import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.container"))
