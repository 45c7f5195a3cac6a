"""The client itself: it sends requests to one service, again where that makes sense."""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from neurobento.client.answers import AnomalyAnswer, Answer
from neurobento.client.requests import (
    AnomalyRequest,
    ParcellationRequest,
    Space,
    TransferProgress,
    ignore_progress,
)
from neurobento.client.retries import Deadline, Retries
from neurobento.client.transport import open_transport, require_option
from neurobento.contract.jobs import IDEMPOTENCY_KEY
from neurobento.errors import (
    ConfigError,
    JobNotFound,
    NeuroBentoError,
    PreprocessingError,
    RequestRefused,
    ScanError,
    ServiceUnavailable,
)

if TYPE_CHECKING:
    from neurobento.client.jobs import JobEndpoints
    from neurobento.preprocessing.mode import Preprocessing

__all__ = ["ERRORS_ABOUT_THE_FILE", "Client"]

Value = TypeVar("Value")
AnyAnswer = TypeVar("AnyAnswer", Answer, AnomalyAnswer)

ERRORS_ABOUT_THE_FILE = (ScanError, PreprocessingError, RequestRefused)
"""Errors whose subject is the scan or slice; of all others it is the service."""

READY_LIMIT_S = 10.0
JOB_POLL_S = 2.0
"""Interval at which the state of a job is read while waiting for it."""

JOB_ID = re.compile(r"[0-9a-f]{32}")
TOKEN = re.compile(r"[\x21-\x7e]+")
"""The characters that a header can carry."""


class Client:
    """A connection to one service; a context manager that closes it.

    Proxies from the environment are not used, redirects not followed, file names not sent. TLS
    trusts the system's certificates (SSL_CERT_FILE names others). Every method raises the service's
    error, or a `ServiceError`, or `OSError` if the file cannot be read.

    `url` is `http[s]://HOST[:PORT]`, or for the Open Inference Protocol `grpc[s]://HOST:PORT`;
    `timeout_s` limits a whole call (a stalled HTTP connection may take twice as long). `progress`
    is called with "uploading", "waiting", "waiting (busy, trying again in N s)", "downloading" and
    "done", with bytes where they are known.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float | None = None,
        retries: Retries | None = None,
        progress: TransferProgress = ignore_progress,
    ) -> None:
        limited = timeout_s is None or 0 < timeout_s < math.inf
        require_option(limited, "timeout_s", "None or seconds above 0", f"{timeout_s}")
        can_be_sent = token is None or bool(TOKEN.fullmatch(token))
        bad_token = "other characters" if token else "an empty token"
        require_option(can_be_sent, "token", "visible ASCII", bad_token)
        self._url, self._token, self._timeout_s = url, token, timeout_s
        self._retries = retries or Retries()
        self._progress = progress
        self._transport = open_transport(url, token)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def parcellate(
        self,
        scan: Path | str | bytes,
        *,
        model: str | None = None,
        preprocessing: Preprocessing = "full",
        space: Space = "native",
    ) -> Answer:
        """Send a scan, as a path or as the bytes of a file, and return its parcellation."""
        content = _read_content(scan)
        request = ParcellationRequest(content, model, preprocessing, space, uuid.uuid4().hex)
        return self._report_done(
            self._call(
                lambda deadline: self._transport.parcellate(request, deadline, self._progress),
                _path_of(scan),
            )
        )

    def anomaly(self, image: Path | str | bytes, *, model: str | None = None) -> AnomalyAnswer:
        """Send a slice (PNG, JPEG, DICOM or NIfTI) and return its score and heat map."""
        request = AnomalyRequest(_read_content(image), model, uuid.uuid4().hex)
        return self._report_done(
            self._call(
                lambda deadline: self._transport.anomaly(request, deadline, self._progress),
                _path_of(image),
            )
        )

    def models(self) -> list[dict[str, Any]]:
        """Return the service's models, each at least with its `name`."""
        return self._call(self._transport.models, self._url)

    def ready(self) -> bool:
        """Ask once, for ten seconds at most, if the service accepts requests now."""
        limit_s = READY_LIMIT_S if self._timeout_s is None else min(READY_LIMIT_S, self._timeout_s)
        try:
            return self._transport.ready(Deadline.after(limit_s))
        except ServiceUnavailable:
            return False
        except NeuroBentoError as error:
            raise self._with_subject(error, self._url) from None

    def submit(
        self,
        scan: Path | str | bytes,
        *,
        model: str | None = None,
        preprocessing: Preprocessing = "full",
        space: Space = "native",
        key: str | None = None,
    ) -> str:
        """Submit a scan over HTTP as a job, which outlives a restart of the service; return its id.

        The same scan with the same `key` (1 to 255 visible ASCII characters) gives the same job.
        `JobConflict`: the key was used for another scan, or with other options.
        """
        key = uuid.uuid4().hex if key is None else key
        is_key = bool(IDEMPOTENCY_KEY.fullmatch(key))
        found = f"{len(key)} characters"
        require_option(is_key, "key", "1 to 255 visible ASCII characters", found)
        endpoints = self._job_endpoints()
        content = _read_content(scan)
        request = ParcellationRequest(content, model, preprocessing, space, uuid.uuid4().hex)
        return self._call(
            lambda deadline: endpoints.submit(request, key, deadline, self._progress),
            _path_of(scan),
        )

    def job(self, id: str) -> dict[str, Any]:
        """Return a job's `state`, one of `JOB_STATES`, and its `error` and `expires`."""
        return self._job_status(id)

    def job_answer(self, id: str, *, wait: bool = True) -> Answer:
        """Return the parcellation that a job made, or raise the error that it failed with.

        `JobConflict`: it was cancelled or, without `wait`, has not ended.
        """
        deadline = Deadline.after(self._timeout_s)
        endpoints = self._job_endpoints()
        status = self._unfailed_job_status(id, deadline)
        while wait and status["state"] in ("waiting", "running"):
            self._progress(f"waiting (job is {status['state']})", None)
            remaining_s = deadline.remaining_s
            time.sleep(JOB_POLL_S if remaining_s is None else min(JOB_POLL_S, remaining_s))
            status = self._unfailed_job_status(id, deadline)
        return self._report_done(
            self._call(
                lambda deadline: endpoints.answer(id, deadline, self._progress), deadline=deadline
            )
        )

    def delete_job(self, id: str) -> None:
        """Cancel a job unless it has ended, and delete its scan and its result."""
        _require_job_id(id)
        endpoints = self._job_endpoints()
        attempts = 0

        def delete(deadline: Deadline) -> None:
            nonlocal attempts
            attempts += 1
            try:
                endpoints.delete(id, deadline)
            except JobNotFound:
                # after a lost answer the job is gone because an earlier attempt deleted it
                if attempts == 1:
                    raise

        self._call(delete)

    def _job_endpoints(self) -> JobEndpoints:
        if not self._url.startswith("http"):
            raise ConfigError(
                subject=self._url,
                expected="a service over HTTP: only there are jobs",
                found="one over gRPC",
                remedy="Give its address as http://HOST:PORT.",
            )
        from neurobento.client.http import HttpTransport
        from neurobento.client.jobs import JobEndpoints

        assert isinstance(self._transport, HttpTransport)
        return JobEndpoints(self._transport)

    def _unfailed_job_status(self, id: str, deadline: Deadline) -> dict[str, Any]:
        from neurobento.client.jobs import job_error

        status = self._job_status(id, deadline)
        if status["state"] == "failed":
            raise job_error(status)
        return status

    def _job_status(self, id: str, deadline: Deadline | None = None) -> dict[str, Any]:
        _require_job_id(id)
        endpoints = self._job_endpoints()
        return self._call(lambda deadline: endpoints.status(id, deadline), deadline=deadline)

    def _call(
        self,
        attempt: Callable[[Deadline], Value],
        path: str | None = None,
        deadline: Deadline | None = None,
    ) -> Value:
        """Return the result of `attempt`, repeated as `Retries` says; errors name their subject."""
        deadline = deadline or Deadline.after(self._timeout_s)
        try:
            return self._retries.run(lambda: attempt(deadline), deadline, self._progress)
        except NeuroBentoError as error:
            subject = path if isinstance(error, ERRORS_ABOUT_THE_FILE) else self._url
            raise self._with_subject(error, subject) from None

    def _report_done(self, answer: AnyAnswer) -> AnyAnswer:
        self._progress("done", sum(map(len, answer.files.values())))
        return answer

    def _with_subject(self, error: NeuroBentoError, subject: str | None) -> NeuroBentoError:
        """Return the error with its subject; a token that the service echoed is removed."""
        parts = {**error.parts, "subject": subject}
        for name, part in parts.items():
            if self._token and isinstance(part, str):
                parts[name] = part.replace(self._token, "[token]")
        return type(error)(**parts)


def _read_content(file: Path | str | bytes) -> bytes:
    return file if isinstance(file, bytes) else Path(file).read_bytes()


def _path_of(file: Path | str | bytes) -> str | None:
    return None if isinstance(file, bytes) else str(file)


def _require_job_id(id: str) -> None:
    expected = "32 hexadecimal digits, as `submit` gives them"
    require_option(bool(JOB_ID.fullmatch(id)), "id", expected, f"{len(id)} characters")
