"""Options of a parcellation request, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from neurobento.errors import ConfigError
from neurobento.preprocessing.mode import PREPROCESSINGS, Preprocessing

__all__ = ["ParcellationOptions"]


class ParcellationOptions:
    """The model, preprocessing and space that a client chose; the handler checks the model."""

    def __init__(self, model: str, preprocessing: str, space: str) -> None:
        self.model = model
        self.preprocessing: Preprocessing = _choice("preprocessing", preprocessing, PREPROCESSINGS)
        self.space: Literal["native", "network"] = _choice("space", space, ("native", "network"))

    @classmethod
    def from_report_query(cls, query: Mapping[str, str], default_model: str) -> ParcellationOptions:
        """Return the options of report A's API, `?preprocessing=true|false&model=NAME`."""
        given = query.get("preprocessing", "false").lower()
        preprocessing = {"true": "full", "false": "none"}.get(given, given)
        model = query.get("model") or default_model
        return cls(model, preprocessing, query.get("space", "native"))


def _choice(option: str, value: str, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise ConfigError(
            subject=option,
            expected=f"{option} to be one of {', '.join(allowed)}",
            # a long value may be anything, a patient's name too
            found=f"{len(value)} other characters" if len(value) > 20 else repr(value),
            remedy="Choose one of them.",
        )
    return value
