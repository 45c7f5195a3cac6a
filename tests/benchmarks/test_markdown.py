"""Generated text goes between the markers of a document, and nowhere else."""

from __future__ import annotations

import pytest

from benchmarks.markdown import replace_between
from neurobento.errors import ConfigError

BEGIN, END = MARKERS = ("<!-- here -->", "<!-- /here -->")


@pytest.mark.parametrize("document", ["", BEGIN, END + BEGIN, BEGIN + BEGIN + END, BEGIN + END * 2])
def test_markers_out_of_order_are_refused(document: str) -> None:
    with pytest.raises(ConfigError, match="each once"):
        replace_between(MARKERS, document, "text", "README")


def test_only_the_text_between_the_markers_changes() -> None:
    document = f"before {BEGIN}old{END} after"
    expected = f"before {BEGIN}\nnew{END} after"
    assert replace_between(MARKERS, document, "new", "README") == expected
