"""Every error has a status, a gRPC code, and one body."""

from __future__ import annotations

from http import HTTPStatus

import grpc
import pytest

from neurobento import errors
from neurobento.errors import (
    ModelError,
    NeuroBentoError,
    PreprocessingError,
    ScanError,
    ServiceError,
)
from neurobento.serving.error_responses import GRPC_CODES, error_body, error_headers, error_status

KINDS = [getattr(errors, name) for name in errors.__all__]
ANSWERS = {
    errors.FileTooLarge: (413, "INVALID_ARGUMENT"),
    errors.TooManyVoxels: (413, "INVALID_ARGUMENT"),
    errors.SuspiciousCompression: (413, "INVALID_ARGUMENT"),
    errors.TruncatedScan: (422, "INVALID_ARGUMENT"),
    errors.NotOnNetworkGrid: (422, "INVALID_ARGUMENT"),
    errors.ConstantScan: (422, "INVALID_ARGUMENT"),
    errors.SkullStrippingFailed: (422, "INVALID_ARGUMENT"),
    errors.SkullStrippingUnavailable: (501, "UNIMPLEMENTED"),
    errors.PreprocessingTimeout: (504, "DEADLINE_EXCEEDED"),
    errors.ModelNotFound: (404, "NOT_FOUND"),
    errors.ConfigError: (400, "INVALID_ARGUMENT"),
    errors.SpecMismatch: (500, "INTERNAL"),
    errors.BackendUnavailable: (500, "INTERNAL"),
    errors.ServiceBusy: (429, "RESOURCE_EXHAUSTED"),
    errors.ServiceUnavailable: (503, "UNAVAILABLE"),
    errors.DeadlineExceeded: (504, "DEADLINE_EXCEEDED"),
    errors.ClientGone: (499, "CANCELLED"),
    errors.NotAuthorised: (401, "UNAUTHENTICATED"),
}


def made(kind: type[NeuroBentoError]) -> NeuroBentoError:
    return kind(expected="a", found="b", remedy="C.", subject="/home/somebody/scan.nii")


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_status_says_whose_fault_it_is_and_grpc_the_same(kind: type[NeuroBentoError]) -> None:
    status = error_status(made(kind))
    assert (status, GRPC_CODES[status]) == ANSWERS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_caller_sent_is_the_callers_fault_and_a_broken_model_is_ours(
    kind: type[NeuroBentoError],
) -> None:
    """A failed step or a service that does not answer is never a plain 500."""
    status = error_status(made(kind))
    assert GRPC_CODES[status] in grpc.StatusCode.__members__
    if issubclass(kind, ScanError):
        assert 400 <= status < 500
    if issubclass(kind, ModelError) and kind is not errors.ModelNotFound:
        assert status == HTTPStatus.INTERNAL_SERVER_ERROR
    # a base, and one that only clients raise
    undecided = (errors.ServiceError, errors.RequestRefused)
    if issubclass(kind, PreprocessingError | ServiceError) and kind not in undecided:
        assert status != HTTPStatus.INTERNAL_SERVER_ERROR


def test_any_other_exception_is_500() -> None:
    assert error_status(ZeroDivisionError()) == 500


@pytest.mark.parametrize("kind", [errors.ServiceBusy, errors.ServiceUnavailable])
@pytest.mark.parametrize(("wait_s", "said"), [(0.2, "1"), (5.0, "5"), (5.1, "6")])
def test_a_wait_is_said_in_whole_seconds_and_never_too_short(
    kind: type[ServiceError], wait_s: float, said: str
) -> None:
    error = kind(expected="a", found="b", remedy="C.", retry_after_s=wait_s)
    assert error_headers(error) == {"retry-after": said}


def test_who_is_not_authorised_learns_how_to_say_who_one_is_and_others_get_no_headers() -> None:
    assert error_headers(made(errors.NotAuthorised)) == {"www-authenticate": "Bearer"}
    for error in (made(errors.EmptyScan), made(errors.ServiceBusy), KeyError()):
        assert error_headers(error) == {}


def test_a_body_has_one_shape() -> None:
    assert error_body("EmptyScan", "expected a head", "r-1") == {
        "error": {"type": "EmptyScan", "message": "expected a head", "request_id": "r-1"}
    }
