"""Responses of BentoML's API methods: files, and errors."""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from neurobento.errors import NeuroBentoError
from neurobento.serving.error_answers import error_body, error_headers, error_status

__all__ = ["FILE_STEM", "GZIP", "JSON", "PNG", "ZIP", "answer_errors", "file_response", "zip_files"]

GZIP, ZIP = "application/gzip", "application/zip"
JSON, PNG = "application/json", "image/png"
FILE_STEM = "scan"
"""Name of the files in an answer; the client's own file name stays with the client."""


def zip_files(files: Mapping[str, bytes]) -> bytes:
    """Return a zip of files, given by name."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return archive.getvalue()


def file_response(content: bytes, name: str, media_type: str) -> Response:
    """Return a response that is a file to download."""
    headers = {"content-disposition": f'attachment; filename="{FILE_STEM}_{name}"'}
    return Response(content, media_type=media_type, headers=headers)


def answer_errors(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate an API method: its errors become responses, with their status set in `ctx`."""

    @functools.wraps(method)
    async def answer(self: Any, *args: Any, ctx: Any, **options: Any) -> Any:
        try:
            return await method(self, *args, ctx=ctx, **options)
        except NeuroBentoError as error:
            return _error_response(error, ctx)

    return answer


def _error_response(error: NeuroBentoError, ctx: Any) -> Response:
    status = error_status(error)
    body = error_body(type(error).__name__, error.public_message, ctx.request.state.request_id)
    # BentoML sets the context's status on every response of a method that has a context
    ctx.response.status_code = status
    ctx.response.metadata.update(error_headers(error))
    return JSONResponse(body, status_code=status)
