"""Read a Markdown table back."""

from __future__ import annotations


def cells(table: str) -> list[list[str]]:
    """Return the rows of a Markdown table without its head, all of one width."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert len({len(row) for row in rows}) == 1
    return rows[2:]
