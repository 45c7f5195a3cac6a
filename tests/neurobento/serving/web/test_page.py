"""The page at `/`."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from neurobento.preprocessing.mode import PREPROCESSINGS
from neurobento.serving.http.paths import is_known_path
from neurobento.serving.web.page import PAGE


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.feed(PAGE)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_loads_nothing_from_elsewhere() -> None:
    assert not re.findall(r"(?:https?:)?//[\w.]+|@import|url\(", PAGE)
    assert not {tag for tag, _ in Tags().found} & {"script", "link", "iframe", "img", "object"}


def test_every_link_is_answered() -> None:
    found = [attrs.get("href") or attrs.get("action") for _, attrs in Tags().found]
    links = {link for link in found if link}
    assert {"/v1/parcellation", "/v1/anomaly", "/v1/models"} <= links
    assert all(map(is_known_path, links))


def test_the_form_offers_every_level() -> None:
    levels = [attrs["value"] for tag, attrs in Tags().found if tag == "option"]
    assert levels == list(PREPROCESSINGS)


def test_each_form_sends_a_file() -> None:
    forms = [attrs for tag, attrs in Tags().found if tag == "form"]
    kinds = [(form["method"], form["enctype"]) for form in forms]
    assert kinds == [("post", "multipart/form-data")] * 2
    inputs = [attrs for tag, attrs in Tags().found if tag == "input"]
    assert [(i["type"], i["name"]) for i in inputs] == [("file", "file")] * 2
