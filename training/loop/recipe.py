"""TOML files read into frozen dataclasses, every value checked against its field's type."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from neurobento.errors import ConfigError

__all__ = ["build_table", "read_recipe_file", "wrong_option"]


def read_recipe_file(path: Path, kind: Any, *, expected: str, compare_with: str) -> Any:
    """Read a TOML file into the dataclass `kind`; `data` may name a file that holds its table."""
    try:
        values = tomllib.loads(path.read_text())
        if isinstance(values.get("data"), str):
            values["data"] = _read_data(path.parent / values["data"])
        return build_table(kind, values)
    except (tomllib.TOMLDecodeError, TypeError, KeyError, ValueError) as error:
        raise ConfigError(
            subject=str(path),
            expected=expected,
            found=str(error),
            remedy=f"Compare it with {compare_with}.",
        ) from None


def _read_data(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"no file {path}")
    return tomllib.loads(path.read_text())


def wrong_option(subject: str, expected: str, found: str) -> ConfigError:
    """Return the error for a recipe whose options make no sense."""
    return ConfigError(
        subject=subject, expected=expected, found=found, remedy="Correct the recipe."
    )


def build_table(kind: Any, values: Any) -> Any:
    """Build a dataclass from a TOML table."""
    if not isinstance(values, dict):
        raise TypeError(f"{kind.__name__} is not a table")
    hints = get_type_hints(kind)
    unknown = set(values) - set(hints)
    if unknown:
        raise TypeError(f"unknown key {', '.join(sorted(unknown))}")
    return kind(**{key: _convert(key, hints[key], value) for key, value in values.items()})


def _convert(key: str, hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build_table(hint, value)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return tuple(_convert(key, k, v) for k, v in zip(kinds, value, strict=True))
    if origin is Mapping and isinstance(value, dict):
        return {name: _convert(key, arguments[1], part) for name, part in value.items()}
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise TypeError(f"{key} = {value!r} is not {hint}")
