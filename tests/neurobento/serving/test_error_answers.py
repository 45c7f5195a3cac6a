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
from neurobento.serving.error_answers import GRPC_CODES, error_body, error_headers, error_status

KINDS = [getattr(errors, name) for name in errors.__all__]
EXACT = {
    errors.FileTooLarge: 413,
    errors.TooManyVoxels: 413,
    errors.SuspiciousCompression: 413,
    errors.TruncatedScan: 422,
    errors.NotOnNetworkGrid: 422,
    errors.ConstantScan: 422,
    errors.SkullStrippingFailed: 422,
    errors.SkullStrippingUnavailable: 501,
    errors.PreprocessingTimeout: 504,
    errors.ModelNotFound: 404,
    errors.ConfigError: 400,
    errors.SpecMismatch: 500,
    errors.BackendUnavailable: 500,
    errors.ServiceBusy: 429,
    errors.ServiceUnavailable: 503,
    errors.DeadlineExceeded: 504,
    errors.ClientGone: 499,
    errors.NotAuthorised: 401,
}
CODES = {
    errors.FileTooLarge: "INVALID_ARGUMENT",
    errors.TruncatedScan: "INVALID_ARGUMENT",
    errors.SkullStrippingUnavailable: "UNIMPLEMENTED",
    errors.PreprocessingTimeout: "DEADLINE_EXCEEDED",
    errors.ModelNotFound: "NOT_FOUND",
    errors.ConfigError: "INVALID_ARGUMENT",
    errors.SpecMismatch: "INTERNAL",
    errors.ServiceBusy: "RESOURCE_EXHAUSTED",
    errors.ServiceUnavailable: "UNAVAILABLE",
    errors.DeadlineExceeded: "DEADLINE_EXCEEDED",
    errors.ClientGone: "CANCELLED",
    errors.NotAuthorised: "UNAUTHENTICATED",
}


def made(kind: type[NeuroBentoError]) -> NeuroBentoError:
    return kind(expected="a", found="b", remedy="C.", subject="/home/somebody/scan.nii")


@pytest.mark.parametrize("kind", EXACT)
def test_a_status_says_whose_fault_it_is(kind: type[NeuroBentoError]) -> None:
    assert error_status(made(kind)) == EXACT[kind]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(kind, ScanError)])
def test_what_the_caller_sent_is_the_callers_fault(kind: type[ScanError]) -> None:
    assert 400 <= error_status(made(kind)) < 500


@pytest.mark.parametrize(
    "kind",
    [k for k in KINDS if issubclass(k, ModelError) and k is not errors.ModelNotFound],
)
def test_a_broken_model_is_ours(kind: type[ModelError]) -> None:
    assert error_status(made(kind)) == HTTPStatus.INTERNAL_SERVER_ERROR


@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(kind, PreprocessingError)])
def test_a_failed_step_is_never_a_plain_500(kind: type[PreprocessingError]) -> None:
    assert error_status(made(kind)) != HTTPStatus.INTERNAL_SERVER_ERROR


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in KINDS
        if issubclass(kind, ServiceError)
        # a base, and one that only clients raise
        and kind not in (errors.ServiceError, errors.RequestRefused)
    ],
)
def test_a_service_that_does_not_answer_says_why(kind: type[ServiceError]) -> None:
    assert error_status(made(kind)) != HTTPStatus.INTERNAL_SERVER_ERROR


def test_any_other_exception_is_500() -> None:
    assert error_status(ZeroDivisionError()) == 500


@pytest.mark.parametrize("kind", CODES)
def test_grpc_says_the_same(kind: type[NeuroBentoError]) -> None:
    assert GRPC_CODES[error_status(made(kind))] == CODES[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_a_code_that_grpc_knows(kind: type[NeuroBentoError]) -> None:
    assert GRPC_CODES[error_status(made(kind))] in grpc.StatusCode.__members__


@pytest.mark.parametrize("kind", [errors.ServiceBusy, errors.ServiceUnavailable])
@pytest.mark.parametrize(("wait_s", "said"), [(0.2, "1"), (5.0, "5"), (5.1, "6")])
def test_a_wait_is_said_in_whole_seconds_and_never_too_short(
    kind: type[ServiceError], wait_s: float, said: str
) -> None:
    error = kind(expected="a", found="b", remedy="C.", retry_after_s=wait_s)
    assert error_headers(error) == {"retry-after": said}


def test_who_is_not_authorised_learns_how_to_say_who_one_is() -> None:
    assert error_headers(made(errors.NotAuthorised)) == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize("error", [made(errors.EmptyScan), made(errors.ServiceBusy), KeyError()])
def test_others_have_no_headers(error: Exception) -> None:
    assert error_headers(error) == {}


def test_a_body_has_one_shape() -> None:
    assert error_body("EmptyScan", "expected a head", "r-1") == {
        "error": {"type": "EmptyScan", "message": "expected a head", "request_id": "r-1"}
    }
