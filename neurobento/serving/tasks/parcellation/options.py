"""Options of a parcellation request, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from neurobento.errors import ConfigError
from neurobento.preprocessing.mode import PREPROCESSINGS, Preprocessing
from neurobento.serving.known_names import quote_briefly

__all__ = ["ParcellationOptions"]


REPORT_PREPROCESSINGS = {"true": "full", "false": "none"}
"""The values of `preprocessing` in report A's API, and what they stand for."""


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
        _choice("preprocessing", given, (*REPORT_PREPROCESSINGS, *PREPROCESSINGS))
        preprocessing = REPORT_PREPROCESSINGS.get(given, given)
        model = query.get("model") or default_model
        return cls(model, preprocessing, query.get("space", "native"))


def _choice(option: str, value: str, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise ConfigError(
            subject=option,
            expected=f"{option} to be one of {', '.join(allowed)}",
            found=quote_briefly(value),
            remedy="Choose one of them.",
        )
    return value
