"""Uploads as they should be: BentoML 1.4.39 takes text in a file field for a URL and fetches it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from bentoml.exceptions import BentoMLException

__all__ = ["refuse_urls"]


def refuse_urls() -> None:
    """Switch off the fetching of URLs, and forget file names, for every service of this process.

    BentoML has no setting for it, so its private hook is replaced; a test
    sends such a request and watches that nothing connects.
    """
    from _bentoml_impl.serde import MultipartSerde
    from starlette.datastructures import UploadFile

    async def uploads_only(value: Any) -> UploadFile:
        if isinstance(value, UploadFile):
            # BentoML ends the temporary file's name with the client's, which may name a patient
            value.filename = "scan"
            return value
        raise BentoMLException(
            "expected the field to hold a file; found text. Send multipart/form-data with a file "
            "part, as `curl -F file=@scan.nii.gz` does.",
            error_code=HTTPStatus.BAD_REQUEST,
        )

    MultipartSerde.ensure_file = staticmethod(uploads_only)
