"""Entry point of `python -m neurobento`."""

from neurobento.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
