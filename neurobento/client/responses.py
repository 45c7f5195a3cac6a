"""Read HTTP responses: raise the error in one, or unpack the files in one."""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from http import HTTPStatus
from typing import TYPE_CHECKING

from neurobento import errors as e
from neurobento.client.answers import MAX_RESPONSE_BYTES
from neurobento.client.service_errors import error_from_message, is_retry_after, one_line

if TYPE_CHECKING:
    import httpx

__all__ = ["UPLOAD_NAME", "require_success", "unexpected_response", "unzip_files"]

UPLOAD_NAME = "scan"
"""The file name of every upload, and so the stem of every file that comes back."""

ZIP_NAME = re.compile(rf"{UPLOAD_NAME}_[A-Za-z0-9][A-Za-z0-9._-]*")

ERRORS_BY_STATUS: dict[int, type[e.ServiceError]] = {
    401: e.NotAuthorised,
    429: e.ServiceBusy,
    499: e.ClientGone,
    502: e.ServiceUnavailable,  # a proxy's answer when the service is gone
    503: e.ServiceUnavailable,
    504: e.DeadlineExceeded,
}


def require_success(response: httpx.Response, body: bytes) -> None:
    """Raise the error that the service answered with, if it did."""
    if response.is_success:
        return
    status = response.status_code
    default = e.RequestRefused if 400 <= status < 500 else e.ServiceError
    after = response.headers.get("retry-after", "")
    type_name, message = _parse_error(body)
    phrase = HTTPStatus(status).phrase if status in {*HTTPStatus} else ""
    raise error_from_message(
        ERRORS_BY_STATUS.get(status, default),
        message,
        status=f"HTTP {status} {type_name or phrase}".strip(),
        type_name=type_name,
        retry_after_s=float(after) if is_retry_after(after) else None,
    )


def _parse_error(body: bytes) -> tuple[str, str]:
    """Return type and message of an error in the service's JSON; of any other body nothing."""
    try:
        error = json.loads(body)["error"]
        return one_line(str(error["type"])), str(error["message"])
    except (ValueError, TypeError, KeyError):
        return "", ""


def unzip_files(body: bytes) -> dict[str, bytes]:
    """Return ending of the name -> content of the output files in a zip; skip other names."""
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            entries = [i for i in archive.infolist() if ZIP_NAME.fullmatch(i.filename)]
            if sum(entry.file_size for entry in entries) > MAX_RESPONSE_BYTES:
                raise unexpected_response(f"files of at most {MAX_RESPONSE_BYTES} bytes", body)
            return {i.filename.removeprefix(f"{UPLOAD_NAME}_"): archive.read(i) for i in entries}
    # broken; another compression; encrypted
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        raise unexpected_response("a zip of output files", body) from None


def unexpected_response(expected: str, body: bytes | bytearray) -> e.ServiceError:
    """Return the error for a body that no neurobento service sends."""
    return e.ServiceError(
        expected=expected,
        found=f"something else in an answer of {len(body)} bytes",
        remedy="Check that a neurobento service answers there, with nothing in between.",
    )
