"""Uploads as they should be: one file, a few short fields, no address to be fetched.

BentoML 1.4.39 takes text in a file field for a URL and fetches it, takes any
number of parts, and has no setting for either: its private hooks are replaced,
and tests watch that they hold.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from bentoml.exceptions import BentoMLException

from neurobento.serving.process.room import no_room

__all__ = ["limit_uploads"]

MOST_FILES, MOST_FIELDS = 1, 8
LONGEST_FIELD_BYTES = 1024


def limit_uploads() -> None:
    """Hold every upload of this process to one file and short fields, and forget file names."""
    from _bentoml_impl.serde import MultipartSerde
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException

    async def uploads_only(value: Any) -> UploadFile:
        if isinstance(value, UploadFile):
            # BentoML ends the temporary file's name with the client's, which may name a patient
            value.filename = "scan"
            return value
        raise _bad_request("the field `file` to hold a file; found text")

    parse = MultipartSerde.parse_request

    async def limited(self: Any, request: Any, cls: Any) -> Any:
        try:
            # read once, and kept by the request
            form = await request.form(
                max_files=MOST_FILES, max_fields=MOST_FIELDS, max_part_size=LONGEST_FIELD_BYTES
            )
        except OSError as error:
            if no_room(error) is None:
                raise
            raise BentoMLException("no room", error_code=HTTPStatus.SERVICE_UNAVAILABLE) from None
        except HTTPException:
            raise _bad_request(
                f"a form of {MOST_FILES} file and at most {MOST_FIELDS} fields of at most "
                f"{LONGEST_FIELD_BYTES} bytes; found more, or no whole form"
            ) from None
        # a hostile file name may put the file into another field
        if any(name != "file" and isinstance(one, UploadFile) for name, one in form.multi_items()):
            raise _bad_request("the file in the field `file`; found it in another")
        return await parse(self, request, cls)

    if not hasattr(parse, "limited"):
        limited.limited = True  # type: ignore[attr-defined]
        MultipartSerde.ensure_file = staticmethod(uploads_only)
        MultipartSerde.parse_request = limited


def _bad_request(expected_and_found: str) -> BentoMLException:
    return BentoMLException(
        f"expected {expected_and_found}. Send multipart/form-data with one file part, as "
        "`curl -F file=@scan.nii.gz` does.",
        error_code=HTTPStatus.BAD_REQUEST,
    )
