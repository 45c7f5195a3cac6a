"""Responses with a file to download, or a zip of several."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

from starlette.responses import Response

__all__ = ["FILE_STEM", "GZIP", "JSON", "PNG", "ZIP", "file_response", "zip_files"]

GZIP, ZIP = "application/gzip", "application/zip"
JSON, PNG = "application/json", "image/png"
FILE_STEM = "scan"
"""Name of the files in a response; the client's own file name stays with the client."""


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
