"""The error for a package that only an extra installs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata

from neurobento.errors import ConfigError

__all__ = ["naming_extra", "require_extra"]


@contextmanager
def naming_extra(extra: str, subject: str) -> Iterator[None]:
    """Raise `ConfigError`, which names the extra, if an import in the block fails."""
    try:
        yield
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "neurobento":
            raise
        raise ConfigError(
            subject=subject,
            expected=f"the packages of the extra {extra}",
            found=f"no package {missing}" if missing else str(error),
            remedy=f"Install them: `pip install '{_distribution()}[{extra}]'`.",
        ) from error


def require_extra(extra: str, subject: str, *modules: str) -> None:
    """Raise `ConfigError`, which names the extra, unless these modules can be imported."""
    with naming_extra(extra, subject):
        for module in modules:
            import_module(module)


def _distribution() -> str:
    """Return the name to install: the whole package's or, if that is not here, the client's."""
    names = {distribution.name for distribution in metadata.distributions()}
    only_client = "neurobento-client" in names and "neurobento" not in names
    return "neurobento-client" if only_client else "neurobento"
