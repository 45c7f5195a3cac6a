"""Every error has a status, and one body."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from neurobento import errors
from neurobento.errors import ModelError, NeuroBentoError, PreprocessingError, ScanError
from serving.answers import error_body, error_status

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


def test_any_other_exception_is_500() -> None:
    assert error_status(ZeroDivisionError()) == 500


def test_a_body_has_one_shape() -> None:
    assert error_body("EmptyScan", "expected a head", "r-1") == {
        "error": {"type": "EmptyScan", "message": "expected a head", "request_id": "r-1"}
    }
