"""Requests to a service; the name of the file, which may name a patient, is no part of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from neurobento.preprocessing.mode import Preprocessing

__all__ = ["AnomalyRequest", "ParcellationRequest", "Space", "TransferProgress", "ignore_progress"]

Space = Literal["native", "network"]
"""The grid of the labels: the scan's own or the network's."""

TransferProgress = Callable[[str, int | None], None]
"""Called with the stage and, where it is known, the number of bytes transferred."""


def ignore_progress(_: str, __: int | None = None) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class ParcellationRequest:
    """A scan to parcellate."""

    content: bytes = field(repr=False)
    """The bytes of the scan's file."""
    model: str | None
    """None: the service's default."""
    preprocessing: Preprocessing
    space: Space
    request_id: str
    """The request's name in the service's log."""


@dataclass(frozen=True)
class AnomalyRequest:
    """A slice to score."""

    content: bytes = field(repr=False)
    """The bytes of the slice's file."""
    model: str | None
    """None: the service's default."""
    request_id: str
    """The request's name in the service's log."""
