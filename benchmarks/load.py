"""Old name of `benchmarks.service.load`, kept for one release."""

from benchmarks.service.load import main
from neurobento.command import run

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.service.load"))
