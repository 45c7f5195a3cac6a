"""An upload is one file and short fields; that no address is fetched is seen in tests/service."""

from __future__ import annotations

import asyncio
import inspect
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from bentoml.exceptions import BentoMLException
from starlette.datastructures import UploadFile
from starlette.requests import Request

from neurobento.serving.http.uploads import limit_uploads

BOUNDARY = "part-of-a-form"


@pytest.fixture
def serde(monkeypatch: pytest.MonkeyPatch) -> Any:
    """BentoML's reader of forms with its hooks replaced; afterwards it is as it was."""
    from _bentoml_impl.serde import MultipartSerde

    for name in ("ensure_file", "parse_request"):
        original = inspect.getattr_static(MultipartSerde, name)
        monkeypatch.setattr(MultipartSerde, name, original)
    limit_uploads()
    return MultipartSerde


@pytest.fixture(autouse=True)
def no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever opens a client fails the test."""
    import _bentoml_impl.serde  # noqa: F401 (first, for it needs the client as it is)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the server opened a connection")

    monkeypatch.setattr(httpx, "AsyncClient", refuse)


class Form:
    """As much of the model of a form as BentoML's reader asks for."""

    multipart_fields = ("file",)
    model_fields = {"file": SimpleNamespace(annotation=Path)}  # noqa: RUF012

    @staticmethod
    def model_validate(data: dict[str, Any]) -> dict[str, Any]:
        return data


def part(name: str, value: str | bytes, file_name: str | None = None) -> bytes:
    """One part of a form; a file if it has a file name."""
    disposition = f'form-data; name="{name}"'
    if file_name is not None:
        disposition += f'; filename="{file_name}"'
    content = value.encode() if isinstance(value, str) else value
    head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n"
    return head.encode() + content + b"\r\n"


SCAN = part("file", b"\x1f\x8b scan", "JANE_DOE.nii.gz")


def read(serde: Any, *parts: bytes, content_type: str | None = None) -> dict[str, Any]:
    """What the reader makes of a form; of a file, its name and content."""
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    kind = content_type or f"multipart/form-data; boundary={BOUNDARY}"

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    # Starlette's errors are another kind outside of an application
    scope = {"type": "http", "headers": [(b"content-type", kind.encode())], "app": object()}

    async def take() -> dict[str, Any]:
        request = Request(scope, receive)
        try:
            found: dict[str, Any] = await serde().parse_request(request, Form)
            found["file"] = found["file"].filename, await found["file"].read()
            return found
        finally:
            await request.close()

    return asyncio.run(take())


def refusal(serde: Any, *parts: bytes, **options: Any) -> str:
    """What is said of a form that is not taken."""
    with pytest.raises(BentoMLException) as caught:
        read(serde, *parts, **options)
    assert caught.value.error_code == 400
    return str(caught.value)


def test_bentoml_still_fetches_and_takes_all_by_itself() -> None:
    """The day it does not, the hooks can go."""
    import _bentoml_impl.serde

    source = inspect.getsource(_bentoml_impl.serde)
    assert "self.ensure_file(v) for v in form.getlist(k)" in source
    assert "await request.form()" in source


def test_a_file_and_its_options_pass(serde: Any) -> None:
    found = read(serde, SCAN, part("model", "compact"), part("space", "native"))
    assert (found["model"], found["space"]) == ("compact", "native")
    assert found["file"][1] == b"\x1f\x8b scan"


def test_a_files_name_is_forgotten(serde: Any) -> None:
    assert read(serde, SCAN)["file"][0] == "scan"


def test_a_large_file_passes(serde: Any) -> None:
    content = bytes(3 << 20)
    assert read(serde, part("file", content, "scan"))["file"][1] == content


def test_two_files_are_a_bad_request(serde: Any) -> None:
    assert "1 file" in refusal(serde, SCAN, part("file", b"scan", "scan"))
    assert "1 file" in refusal(serde, SCAN, part("model", b"scan", "scan"))


def test_a_file_in_another_field_is_a_bad_request(serde: Any) -> None:
    assert "in another" in refusal(serde, part("model", b"scan", "scan"))


def test_a_ninth_field_is_a_bad_request(serde: Any) -> None:
    fields = [part(f"f{i}", "x") for i in range(9)]
    assert len(read(serde, SCAN, *fields[:8])) == 9
    assert "8 fields" in refusal(serde, SCAN, *fields)


def test_a_long_field_is_a_bad_request(serde: Any) -> None:
    assert read(serde, SCAN, part("model", "x" * 1024))["model"] == "x" * 1024
    message = refusal(serde, SCAN, part("model", "JANE_DOE" * 129))
    assert "1024 bytes" in message
    assert "JANE_DOE" not in message


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=x"])
def test_what_is_no_form_is_a_bad_request(serde: Any, content_type: str) -> None:
    assert "no whole form" in refusal(serde, SCAN, content_type=content_type)


@pytest.mark.parametrize("value", ["http://127.0.0.1:1/x", "file:///etc/passwd", "", "text"])
def test_text_in_a_file_field_is_a_bad_request(serde: Any, value: str) -> None:
    assert "found text" in refusal(serde, part("file", value))


def test_the_address_is_not_repeated(serde: Any) -> None:
    address = "http://somewhere.example/JANE_DOE.nii"
    assert "JANE_DOE" not in refusal(serde, part("file", address))


def test_a_file_passes_the_hook_as_it_is(serde: Any) -> None:
    upload = UploadFile(io.BytesIO(b"scan"), filename="scan")
    assert asyncio.run(serde.ensure_file(upload)) is upload


def test_limits_are_set_once(serde: Any) -> None:
    before = serde.parse_request, serde.ensure_file
    limit_uploads()
    assert (serde.parse_request, serde.ensure_file) == before
