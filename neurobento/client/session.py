"""`Client`: asks a service for parcellations and anomalies, again where that makes sense."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from neurobento.client.exchange import (
    AnomalyAnswer,
    Answer,
    Ask,
    AskAnomaly,
    Progress,
    Space,
    Transport,
    say_nothing,
)
from neurobento.client.jobs import Jobs
from neurobento.client.retries import Deadline, Retries
from neurobento.errors import (
    ConfigError,
    NeuroBentoError,
    PreprocessingError,
    RequestRefused,
    ScanError,
    ServiceUnavailable,
)
from neurobento.preprocessing.mode import Preprocessing

if TYPE_CHECKING:
    from neurobento.client.job_calls import JobCalls

__all__ = ["ABOUT_THE_SCAN", "Client"]

Result = TypeVar("Result")

ABOUT_THE_SCAN = (ScanError, PreprocessingError, RequestRefused)
"""Errors whose subject is the scan; of all others it is the service."""

READY_LIMIT_S = 10.0

HOST = r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
URL = re.compile(rf"(?P<scheme>https?|grpcs?)://{HOST}(?P<port>:\d{{1,5}})?(?P<path>/[^?#\s]*)?")
TOKEN = re.compile(r"[\x21-\x7e]+")
"""What a header can carry."""


class Client(Jobs):
    """Asks one service; a context manager, which closes its connections.

    Scans go straight to the host that is named: proxies set in the environment
    are not used, redirections not followed, and the name of a scan's file is not
    sent. TLS trusts the system's certificates (SSL_CERT_FILE names others).

    Parameters
    ----------
    url
        `http://HOST[:PORT]`, `https://...`, or by the Open Inference Protocol
        `grpc://HOST:PORT`, `grpcs://HOST:PORT`.
    token
        Sent with every request; shown in no message.
    timeout_s
        Limit on a whole call, waits between tries included; the service is told
        what is left of it. None: as long as the service takes. Over HTTP a
        connection that stalls half-way may take up to twice as long to be noticed.
    retries
        How often to ask a busy or missing service again.
    progress
        Told "uploading", "waiting", "waiting (busy, trying again in N s)",
        "downloading" and "done", with bytes where they are known.

    Raises
    ------
    ConfigError
        The address, the token or the limit cannot be used, or the packages of the
        extra `client` are missing.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float | None = None,
        retries: Retries | None = None,
        progress: Progress = say_nothing,
    ) -> None:
        limited = timeout_s is None or 0 < timeout_s < math.inf
        _require(limited, "timeout_s", "None or seconds above 0", f"{timeout_s}")
        bad_token = "an empty one or other characters"
        _require(token is None or bool(TOKEN.fullmatch(token)), "token", "visible ASCII", bad_token)
        self._url, self._token, self._timeout_s = url, token, timeout_s
        self._retries = retries or Retries()
        self._progress = progress
        self._transport = _open(url, token)

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
        """End the connections."""
        self._transport.close()

    def parcellate(
        self,
        scan: Path | str | bytes,
        *,
        model: str | None = None,
        preprocessing: Preprocessing = "full",
        space: Space = "native",
    ) -> Answer:
        """The service's parcellation of a scan.

        Parameters
        ----------
        scan
            A file's path, or the bytes of one.
        model
            Which network is to answer; None: the default one.
        level
            `full` with skull, `stripped` without, `none` on the network grid.
        space
            Whose grid the labels are to be on.

        Raises
        ------
        ScanError, PreprocessingError, ModelError, ConfigError
            As the service raised it.
        ServiceError
            One of its leaves for each way to get no answer.
        OSError
            The file cannot be read.
        """
        ask = Ask(_content(scan), model, preprocessing, space, uuid.uuid4().hex)
        answer = self._asked(
            lambda deadline: self._transport.parcellate(ask, deadline, self._progress),
            None if isinstance(scan, bytes) else str(scan),
        )
        self._progress("done", sum(map(len, answer.files.values())))
        return answer

    def anomaly(self, image: Path | str | bytes, *, model: str | None = None) -> AnomalyAnswer:
        """What the service finds in a slice.

        Parameters
        ----------
        image
            The path of one slice's file (PNG, JPEG, DICOM or NIfTI), or the bytes of one.
        model
            Which network is to answer; None: the default one.

        Raises
        ------
        ScanError, PreprocessingError, ModelError, ConfigError
            As the service raised it.
        ServiceError
            One of its leaves for each way to get no answer.
        OSError
            The file cannot be read.
        """
        ask = AskAnomaly(_content(image), model, uuid.uuid4().hex)
        answer = self._asked(
            lambda deadline: self._transport.anomaly(ask, deadline, self._progress),
            None if isinstance(image, bytes) else str(image),
        )
        self._progress("done", sum(map(len, answer.files.values())))
        return answer

    def models(self) -> list[dict[str, Any]]:
        """What the service says of its models, each at least with its `name`.

        Raises
        ------
        ServiceError
            There is no answer.
        """
        return self._asked(self._transport.models, self._url)

    def ready(self) -> bool:
        """Whether the service would take a request now; asked once, for ten seconds at most.

        Raises
        ------
        ServiceError
            There is an answer, but to something else.
        """
        limit_s = READY_LIMIT_S if self._timeout_s is None else min(READY_LIMIT_S, self._timeout_s)
        try:
            return self._transport.ready(Deadline.after(limit_s))
        except ServiceUnavailable:
            return False
        except NeuroBentoError as error:
            raise self._told(error, self._url) from None

    def _job_calls(self) -> JobCalls:
        """What asks about jobs."""
        with _extra_installed():
            from neurobento.client.job_calls import JobCalls
            from neurobento.client.over_http import HttpTransport
        if not isinstance(self._transport, HttpTransport):
            raise ConfigError(
                subject=self._url,
                expected="a service over HTTP: only there are jobs",
                found="one over gRPC",
                remedy="Give its address as http://HOST:PORT.",
            )
        return JobCalls(self._transport)

    def _asked(
        self,
        ask: Callable[[Deadline], Result],
        asked_of: str | None,
        deadline: Deadline | None = None,
    ) -> Result:
        """What `ask` returns within the limit, in as many tries as that takes."""
        deadline = deadline or Deadline.after(self._timeout_s)
        try:
            return self._retries.run(lambda: ask(deadline), deadline, self._progress)
        except NeuroBentoError as error:
            subject = asked_of if isinstance(error, ABOUT_THE_SCAN) else self._url
            raise self._told(error, subject) from None

    def _told(self, error: NeuroBentoError, subject: str | None) -> NeuroBentoError:
        """The error with its subject; a token that the service sent back is blotted out."""
        parts = {**error.parts, "subject": subject}
        for name, part in parts.items():
            if self._token and isinstance(part, str):
                parts[name] = part.replace(self._token, "[token]")
        return type(error)(**parts)


def _content(file: Path | str | bytes) -> bytes:
    return file if isinstance(file, bytes) else Path(file).read_bytes()


def _open(url: str, token: str | None) -> Transport:
    parts = URL.fullmatch(url)
    # an address with a user name may hold a password
    shown = "another" if "@" in url else repr(url[:200])
    _require(parts is not None, "url", "http[s]://HOST[:PORT] or grpc[s]://HOST:PORT", shown)
    assert parts
    port = int((parts["port"] or ":0")[1:])
    _require(port < 1 << 16, "url", "a port below 65536", f"{port}")
    if parts["scheme"].startswith("http"):
        with _extra_installed():
            from neurobento.client.over_http import HttpTransport
        return HttpTransport(url.rstrip("/"), token)
    plain = bool(parts["port"]) and parts["path"] in (None, "/")
    _require(plain, "url", f"{parts['scheme']}://HOST:PORT", shown)
    with _extra_installed():
        from neurobento.client.over_grpc import GrpcTransport
    target = f"{parts['host']}{parts['port']}"
    return GrpcTransport(target, token, tls=parts["scheme"] == "grpcs")


@contextmanager
def _extra_installed() -> Iterator[None]:
    try:
        yield
    # tritonclient makes a RuntimeError of a missing grpc
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            subject="client",
            expected="httpx and tritonclient[grpc]",
            found=str(error),
            remedy="Install them: `pip install 'neurobento[client]'`.",
        ) from error


def _require(holds: bool, subject: str, expected: str, found: str) -> None:
    if not holds:
        raise ConfigError(
            subject=subject, expected=expected, found=found, remedy="Give one like that."
        )
