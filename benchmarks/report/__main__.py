"""Entry point of `python -m benchmarks.report`."""

from benchmarks.report.run import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.report"))
