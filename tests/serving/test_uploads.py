"""A file field takes files; that no address is fetched is seen in tests/service."""

from __future__ import annotations

import asyncio
import inspect
import io
from typing import Any

import httpx
import pytest
from bentoml.exceptions import BentoMLException
from starlette.datastructures import UploadFile

from serving.uploads import refuse_urls


@pytest.fixture
def serde(monkeypatch: pytest.MonkeyPatch) -> Any:
    """BentoML's reader of forms with the hook replaced; afterwards it is as it was."""
    from _bentoml_impl.serde import MultipartSerde

    original = inspect.getattr_static(MultipartSerde, "ensure_file")
    monkeypatch.setattr(MultipartSerde, "ensure_file", original)
    refuse_urls()
    return MultipartSerde


@pytest.fixture(autouse=True)
def no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever opens a client fails the test."""
    import _bentoml_impl.serde  # noqa: F401 (first, for it needs the client as it is)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the server opened a connection")

    monkeypatch.setattr(httpx, "AsyncClient", refuse)


def test_bentoml_still_fetches_by_itself() -> None:
    """The day it does not, the hook can go."""
    from _bentoml_impl.serde import MultipartSerde

    assert "ensure_file" in inspect.getsource(MultipartSerde.parse_request)


def test_a_file_passes_as_it_is(serde: Any) -> None:
    upload = UploadFile(io.BytesIO(b"scan"), filename="scan")
    assert asyncio.run(serde.ensure_file(upload)) is upload


@pytest.mark.parametrize("value", ["http://127.0.0.1:1/x", "file:///etc/passwd", "", "text"])
def test_text_in_a_file_field_is_a_bad_request(serde: Any, value: str) -> None:
    with pytest.raises(BentoMLException) as caught:
        asyncio.run(serde.ensure_file(value))
    assert caught.value.error_code == 400
    assert "file" in str(caught.value)


def test_the_address_is_not_repeated(serde: Any) -> None:
    with pytest.raises(BentoMLException) as caught:
        asyncio.run(serde.ensure_file("http://somewhere.example/JANE_DOE.nii"))
    assert "JANE_DOE" not in str(caught.value)
