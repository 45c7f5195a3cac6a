"""Let `python -m neurobento` run the command `neurobento`."""

from neurobento.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
