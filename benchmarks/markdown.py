"""Markdown tables, and generated text between the markers of a document."""

from __future__ import annotations

from collections.abc import Sequence

from neurobento.errors import ConfigError

__all__ = ["replace_between", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def replace_between(markers: tuple[str, str], document: str, text: str, subject: str) -> str:
    """Return the document with `text` between its two markers, each of which must occur once."""
    begin, end = markers
    before, opened, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed or begin in rest or end in before + after:
        raise ConfigError(
            subject=subject,
            expected=f"{begin} and {end}, each once, in this order",
            found=f"{document.count(begin)} and {document.count(end)} of them"
            if document.count(begin) != 1 or document.count(end) != 1
            else "the second before the first",
            remedy="Put both where the generated text belongs.",
        )
    return f"{before}{begin}\n{text}{end}{after}"
