"""Everything that reaches into private parts of BentoML and circus.

Another release may move them: `apply_patches` then logs which patches to check.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from bentoml.exceptions import BentoMLException

from neurobento.errors import ConfigError
from neurobento.serving.known_names import require_known_names
from neurobento.serving.process.exhaustion import exhaustion_error

__all__ = [
    "TESTED_VERSIONS",
    "apply_patches",
    "patch_arbiter",
    "patch_batch_dispatcher",
    "patch_signal_handler",
    "patch_traffic_metrics",
    "patch_uploads",
    "tracer_provider",
]

TESTED_VERSIONS = ("1.4.39", "1.4.40")
"""Releases of BentoML that the tests of the patches have passed with."""

MAX_FILES, MAX_FIELDS = 1, 8
MAX_FIELD_BYTES = 1024

POLL_NETWORK_S = 0.01
"""Interval at which BentoML checks for a free network; its own 1 ms costs some of a core."""

POLL_PROCESSES_S = 1.0
"""Interval at which circus checks for dead processes; its own default is 10 s."""

logger = logging.getLogger("neurobento.serving")

Drain = Callable[[Callable[[], None]], None]
"""Called on SIGTERM with a function that stops all services, and calls that when it is time."""


def apply_patches(*, is_known_path: Callable[[str], bool], drain: Drain) -> None:
    """Apply all patches to this process; warn if BentoML's version is not a tested one."""
    version = importlib.metadata.version("bentoml")
    if version not in TESTED_VERSIONS:
        patches = (
            patch_uploads,
            patch_batch_dispatcher,
            patch_traffic_metrics,
            patch_arbiter,
            patch_signal_handler,
            tracer_provider,
        )
        logger.warning(
            "BentoML %s is not a tested version (%s); check in bentoml_patches.py: %s",
            version,
            ", ".join(TESTED_VERSIONS),
            ", ".join(patch.__name__ for patch in patches),
        )
    patch_uploads()
    patch_batch_dispatcher()
    patch_traffic_metrics(is_known_path)
    patch_arbiter()
    patch_signal_handler(drain)


def _install(owner: type, name: str, patch: Callable[..., Any]) -> None:
    """Replace a method, unless this process has replaced it already."""
    if not hasattr(getattr(owner, name), "is_patch"):
        vars(patch)["is_patch"] = True
        setattr(owner, name, patch)


def patch_uploads() -> None:
    """Limit each upload to one file and a few short fields, never a URL, and forget file names."""
    from _bentoml_impl.serde import MultipartSerde

    original = MultipartSerde.parse_request

    async def parse_limited(self: Any, request: Any, cls: Any) -> Any:
        # the request keeps the form that is read here
        await _read_form(request, cls)
        return await original(self, request, cls)

    MultipartSerde.ensure_file = staticmethod(_require_upload)
    _install(MultipartSerde, "parse_request", parse_limited)


async def _read_form(request: Any, cls: Any) -> None:
    from starlette.datastructures import FormData, UploadFile
    from starlette.exceptions import HTTPException

    try:
        form = await request.form(
            max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        )
    except OSError as error:
        if exhaustion_error(error) is None:
            raise
        raise BentoMLException("no room", error_code=HTTPStatus.SERVICE_UNAVAILABLE) from None
    except HTTPException:
        raise _bad_request(
            f"a form of {MAX_FILES} file and at most {MAX_FIELDS} fields of at most "
            f"{MAX_FIELD_BYTES} bytes; found more, or no whole form"
        ) from None
    # a hostile file name may put the file into another field
    if any(name != "file" and isinstance(one, UploadFile) for name, one in form.multi_items()):
        raise _bad_request("the file in the field `file`; found it in another")
    known = list(cls.model_fields)
    elsewhere = "Send options in the query, as `/predict/?preprocessing=true`."
    try:
        names = [name for name, _ in form.multi_items()]
        require_known_names("form field", names, known, elsewhere if known == ["file"] else "")
    except ConfigError as error:
        message = error.public_message
        raise BentoMLException(message, error_code=HTTPStatus.BAD_REQUEST) from None
    # BentoML reads each field as JSON, and would take `true` for something else than text
    fields = [(name, _quoted(value)) for name, value in form.multi_items()]
    request._form = FormData(fields)


def _quoted(value: Any) -> Any:
    """Return a form's value as JSON of a text, unless it is one already, or a file."""
    if not isinstance(value, str):
        return value
    try:
        is_text = isinstance(json.loads(value), str)
    except (ValueError, RecursionError):
        is_text = False
    return value if is_text else json.dumps(value)


async def _require_upload(value: Any) -> Any:
    from starlette.datastructures import UploadFile

    if not isinstance(value, UploadFile):
        raise _bad_request("the field `file` to hold a file; found text")
    # BentoML ends the temporary file's name with the client's, which may name a patient
    value.filename = "scan"
    return value


def _bad_request(expected_and_found: str) -> BentoMLException:
    return BentoMLException(
        f"expected {expected_and_found}. Send multipart/form-data with one file part, as "
        "`curl -F file=@scan.nii.gz` does.",
        error_code=HTTPStatus.BAD_REQUEST,
    )


def patch_batch_dispatcher() -> None:
    """Make a batch of what came while the network was busy, and never hold a request back."""
    # BentoML holds requests back from an idle network: the first ones to learn how long batches
    # take, and after a burst as long as the requests of the burst had waited
    from bentoml._internal.marshal.dispatcher import CorkDispatcher, Optimizer

    async def learn_nothing(self: Any, *_: Any) -> None:
        """Skip the learning of batch times."""

    CorkDispatcher.train_optimizer = learn_nothing
    # it would set the mean wait, which is zero at first
    Optimizer.trigger_refresh = lambda self: None
    CorkDispatcher.TICKET_INTERVAL = POLL_NETWORK_S


def patch_traffic_metrics(is_known_path: Callable[[str], bool]) -> None:
    """Keep unknown paths out of BentoML's metrics: each would add some twenty series."""
    from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware

    count = RunnerTrafficMetricsMiddleware.__call__

    async def count_known(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not is_known_path(scope["path"]):
            await self.app(scope, receive, send)
        else:
            await count(self, scope, receive, send)

    _install(RunnerTrafficMetricsMiddleware, "__call__", count_known)


def patch_arbiter() -> None:
    """Make circus notice every second, not every ten, that a process died."""
    from bentoml._internal.utils.circus import Arbiter

    original = Arbiter.__init__

    def init_with_delay(arbiter: Any, *args: Any, **options: Any) -> None:
        original(arbiter, *args, **{**options, "check_delay": POLL_PROCESSES_S})

    # on the class, as BentoML has imported the function that makes arbiters already
    _install(Arbiter, "__init__", init_with_delay)


def patch_signal_handler(drain: Drain) -> None:
    """Call `drain` on SIGTERM; circus alone stops all services at once, amid their requests."""
    from circus.sighandler import SysHandler

    stop = SysHandler.quit
    _install(SysHandler, "quit", lambda handler: drain(lambda: stop(handler)))


def tracer_provider() -> Any:
    """Return BentoML's tracer provider, so that our spans lie within those of its requests."""
    from bentoml._internal.configuration.containers import BentoMLContainer

    return BentoMLContainer.tracer_provider.get()
