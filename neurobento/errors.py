"""The errors that neurobento raises, each with a message of four parts.

NeuroBentoError
├── ScanError
│   ├── UnreadableScan: UnknownFormat, TruncatedScan, OverlongScan, CorruptCompression
│   ├── OversizedScan: FileTooLarge, SuspiciousCompression, TooManyVoxels
│   ├── UnsupportedScan: UnsupportedDimensions, UnsupportedDatatype, UnsupportedPlane,
│   │   NotOnNetworkGrid
│   ├── DegenerateGeometry: BadVoxelSize, BadFieldOfView, BadAffine, MissingOrientation
│   └── DegenerateIntensities: EmptyScan, ConstantScan, NotFiniteScan
├── PreprocessingError: SkullStrippingUnavailable, SkullStrippingFailed, NoBrainFound, NotABrain,
│   WrongKindOfImage, PreprocessingFailed, PreprocessingTimeout
├── ModelError: ModelNotFound, SpecMismatch, EngineMismatch, ParityFailure, UnusableAnswer,
│   BackendUnavailable
├── ConfigError
├── NotEnoughMemory
├── WorkerLost
└── ServiceError: ServiceBusy, ServiceUnavailable, DeadlineExceeded, ClientGone, NotAuthorised,
    JobNotFound, JobConflict, RequestRefused
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BackendUnavailable",
    "BadAffine",
    "BadFieldOfView",
    "BadVoxelSize",
    "ClientGone",
    "ConfigError",
    "ConstantScan",
    "CorruptCompression",
    "DeadlineExceeded",
    "DegenerateGeometry",
    "DegenerateIntensities",
    "EmptyScan",
    "EngineMismatch",
    "FileTooLarge",
    "JobConflict",
    "JobNotFound",
    "MissingOrientation",
    "ModelError",
    "ModelNotFound",
    "NeuroBentoError",
    "NoBrainFound",
    "NotABrain",
    "NotAuthorised",
    "NotEnoughMemory",
    "NotFiniteScan",
    "NotOnNetworkGrid",
    "OverlongScan",
    "OversizedScan",
    "ParityFailure",
    "PreprocessingError",
    "PreprocessingFailed",
    "PreprocessingTimeout",
    "RequestRefused",
    "ScanError",
    "ServiceBusy",
    "ServiceError",
    "ServiceUnavailable",
    "SkullStrippingFailed",
    "SkullStrippingUnavailable",
    "SpecMismatch",
    "SuspiciousCompression",
    "TooManyVoxels",
    "TruncatedScan",
    "UnknownFormat",
    "UnreadableScan",
    "UnsupportedDatatype",
    "UnsupportedDimensions",
    "UnsupportedPlane",
    "UnsupportedScan",
    "UnusableAnswer",
    "WorkerLost",
    "WrongKindOfImage",
]


class NeuroBentoError(Exception):
    """Base of all errors; its message says what was expected, what was found and what to do.

    The parts reach clients and logs: no voxel values, header text or file names. Only the subject,
    for the person at the terminal, may name a file or an option.
    """

    def __init__(
        self, *, expected: str, found: str, remedy: str, subject: str | None = None
    ) -> None:
        self.expected = expected
        self.found = found
        self.remedy = remedy
        self.subject = subject
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The whole message, with the subject first."""
        return f"{self.subject}: {self.public_message}" if self.subject else self.public_message

    @property
    def public_message(self) -> str:
        """The message without the subject, for logs and clients."""
        return f"expected {self.expected}; found {self.found}. {self.remedy}"

    @property
    def parts(self) -> dict[str, Any]:
        """The keyword arguments that build the same error again."""
        return {
            "expected": self.expected,
            "found": self.found,
            "remedy": self.remedy,
            "subject": self.subject,
        }

    def about(self, subject: str) -> NeuroBentoError:
        """Return the same error with a subject."""
        return type(self)(**{**self.parts, "subject": subject})

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.parts)


def _rebuild(kind: type[NeuroBentoError], parts: dict[str, Any]) -> NeuroBentoError:
    return kind(**parts)


class ScanError(NeuroBentoError):
    """The caller's scan cannot be used (HTTP 4xx)."""


class UnreadableScan(ScanError):
    """The bytes are not a whole scan."""


class UnknownFormat(UnreadableScan):
    """The file is neither NIfTI nor MGH."""


class TruncatedScan(UnreadableScan):
    """The file is shorter than its header says."""


class OverlongScan(UnreadableScan):
    """The file is longer than its header says."""


class CorruptCompression(UnreadableScan):
    """The gzip stream is broken."""


class OversizedScan(ScanError):
    """The scan is too large to open (HTTP 413)."""


class FileTooLarge(OversizedScan):
    """The file has more bytes than the limit."""


class SuspiciousCompression(OversizedScan):
    """The gzip stream inflates more than a scan would."""


class TooManyVoxels(OversizedScan):
    """The grid has more voxels than the limit."""


class UnsupportedScan(ScanError):
    """The scan is whole, but of a kind that is not supported."""


class UnsupportedDimensions(UnsupportedScan):
    """The file does not hold one 3D image, or an axis is out of range."""


class UnsupportedDatatype(UnsupportedScan):
    """The voxels are colour, complex or of an unknown type."""


class UnsupportedPlane(UnsupportedScan):
    """The slice is sagittal, so it is no mirror image of itself."""


class NotOnNetworkGrid(UnsupportedScan):
    """Preprocessing "none" needs a scan on the network grid, and this one is not."""


class DegenerateGeometry(ScanError):
    """The voxel grid has no usable place in the world."""


class BadVoxelSize(DegenerateGeometry):
    """A voxel size is not finite, not positive or out of range."""


class BadFieldOfView(DegenerateGeometry):
    """The grid spans more than any head."""


class BadAffine(DegenerateGeometry):
    """The voxel-to-world affine is not finite or not invertible."""


class MissingOrientation(DegenerateGeometry):
    """The header does not say where left is."""


class DegenerateIntensities(ScanError):
    """The voxels hold no image."""


class EmptyScan(DegenerateIntensities):
    """All voxels are zero."""


class ConstantScan(DegenerateIntensities):
    """All voxels have one value."""


class NotFiniteScan(DegenerateIntensities):
    """No voxel has a finite value."""


class PreprocessingError(NeuroBentoError):
    """A preprocessing step failed on a scan that could be read."""


class SkullStrippingUnavailable(PreprocessingError):
    """ROBEX does not run on this platform."""


class SkullStrippingFailed(PreprocessingError):
    """ROBEX ended with an error or found no brain."""


class NoBrainFound(PreprocessingError):
    """A scan in which no brain was found."""


class NotABrain(PreprocessingError):
    """Preprocessing "stripped" needs a brain on a background of zero, and this is none."""


class WrongKindOfImage(PreprocessingError):
    """A mask or a label map instead of a scan."""


class PreprocessingFailed(PreprocessingError):
    """A library failed on the scan."""


class PreprocessingTimeout(PreprocessingError):
    """A preprocessing step exceeded its time limit."""


class ModelError(NeuroBentoError):
    """A model cannot be used."""


class ModelNotFound(ModelError):
    """There is no model of that name."""


class SpecMismatch(ModelError):
    """The model's files do not match its spec.json."""


class EngineMismatch(ModelError):
    """A TensorRT engine was built for something else."""


class ParityFailure(ModelError):
    """An exported model disagrees with the network it came from."""


class UnusableAnswer(ModelError):
    """A network gave numbers of which no labels can be made."""


class BackendUnavailable(ModelError):
    """The chosen backend is not installed or cannot run here."""


class ConfigError(NeuroBentoError):
    """An option or a configuration file is wrong."""


class NotEnoughMemory(NeuroBentoError):
    """A scan that needs more memory than is free; the same one may do at another time."""


class WorkerLost(NeuroBentoError):
    """The worker process died as often as the retries allow."""


class ServiceError(NeuroBentoError):
    """A service did not answer a request; it may state the seconds to wait before a retry."""

    def __init__(
        self,
        *,
        expected: str,
        found: str,
        remedy: str,
        subject: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(expected=expected, found=found, remedy=remedy, subject=subject)
        self.retry_after_s = retry_after_s

    @property
    def parts(self) -> dict[str, Any]:
        """The keyword arguments that build the same error again."""
        if self.retry_after_s is None:
            return super().parts
        return {**super().parts, "retry_after_s": self.retry_after_s}


class ServiceBusy(ServiceError):
    """The service is overloaded; try again later (HTTP 429, gRPC RESOURCE_EXHAUSTED)."""


class ServiceUnavailable(ServiceError):
    """A part of the service is missing, restarting or draining (503, UNAVAILABLE)."""


class DeadlineExceeded(ServiceError):
    """The caller's time limit passed before the answer was ready (504, DEADLINE_EXCEEDED)."""


class ClientGone(ServiceError):
    """The caller left before the answer (499, CANCELLED)."""


class NotAuthorised(ServiceError):
    """The token is missing or wrong (401, UNAUTHENTICATED)."""


class JobNotFound(ServiceError):
    """The service has no such job, or no longer (404)."""


class JobConflict(ServiceError):
    """The request does not fit the state or the key of the job (409)."""


class RequestRefused(ServiceError):
    """A client's request was refused with any other 4xx."""
