"""`Jobs`: what a client does with work that it does not wait for."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from neurobento.client.exchange import Answer, Ask, Progress, Space
from neurobento.client.retries import Deadline
from neurobento.errors import ConfigError, JobNotFound
from neurobento.preprocessing.mode import Preprocessing

if TYPE_CHECKING:
    from neurobento.client.job_calls import JobCalls

__all__ = ["KEY", "Jobs"]

Result = TypeVar("Result")

LOOK_EVERY_S = 2.0
"""Between two looks at a job that is waited for."""

ID = re.compile(r"[0-9a-f]{32}")
KEY = re.compile(r"[\x21-\x7e]{1,255}")
"""What an idempotency key is, for the service too."""


class Jobs:
    """A client's methods for jobs; see `neurobento.client.Client`. Only HTTP has them."""

    _progress: Progress
    _timeout_s: float | None

    def _job_calls(self) -> JobCalls:
        raise NotImplementedError

    def _asked(
        self,
        ask: Callable[[Deadline], Result],
        asked_of: str | None,
        deadline: Deadline | None = None,
    ) -> Result:
        raise NotImplementedError

    def submit(
        self,
        scan: Path | str | bytes,
        *,
        model: str | None = None,
        preprocessing: Preprocessing = "full",
        space: Space = "native",
        key: str | None = None,
    ) -> str:
        """The id of a job that parcellates a scan: the service keeps both until it is done.

        Asked again after an answer that was lost, it is the same job.

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
        key
            The job's idempotency key, 1 to 255 visible ASCII characters: whoever submits the same
            with the same key, also after a restart, gets the same job. None: a new one.

        Raises
        ------
        ConfigError
            Over gRPC, or for another key.
        JobConflict
            The key was used for another scan, or with other options.
        ServiceError
            One of its leaves for each way to get no answer.
        OSError
            The file cannot be read.
        """
        key = uuid.uuid4().hex if key is None else key
        _require(KEY.fullmatch(key), "key", "1 to 255 visible ASCII characters")
        calls = self._job_calls()
        content = scan if isinstance(scan, bytes) else Path(scan).read_bytes()
        ask = Ask(content, model, preprocessing, space, uuid.uuid4().hex)
        return self._asked(
            lambda deadline: calls.submit(ask, key, deadline, self._progress),
            None if isinstance(scan, bytes) else str(scan),
        )

    def job(self, id: str) -> dict[str, Any]:
        """What the service says of a job: `state` is `waiting`, `running`, `done`, `failed` or
        `cancelled`; `error` says why it failed, `expires` when it is forgotten.

        Raises
        ------
        ConfigError
            Over gRPC, or for what is no id.
        JobNotFound
            There is no such job, or no more.
        ServiceError
            There is no answer.
        """
        return self._status(id)

    def job_answer(self, id: str, *, wait: bool = True) -> Answer:
        """The parcellation that a job has made.

        Parameters
        ----------
        id
            As `submit` gave it.
        wait
            Whether to wait until the job has ended, within the client's limit.

        Raises
        ------
        ConfigError
            Over gRPC, or for what is no id.
        JobConflict
            The job was cancelled or, where it is not waited for, has not ended.
        JobNotFound
            There is no such job, or no more.
        ScanError, PreprocessingError, ModelError, ServiceError
            As the job failed, or for each way to get no answer.
        """
        deadline = Deadline.after(self._timeout_s)
        calls = self._job_calls()
        status = self._looked_at(id, deadline)
        while wait and status["state"] in ("waiting", "running"):
            self._progress(f"waiting (job is {status['state']})", None)
            left_s = deadline.left_s
            time.sleep(LOOK_EVERY_S if left_s is None else min(LOOK_EVERY_S, left_s))
            status = self._looked_at(id, deadline)
        answer = self._asked(
            lambda deadline: calls.answer(id, deadline, self._progress), None, deadline
        )
        self._progress("done", sum(map(len, answer.files.values())))
        return answer

    def _looked_at(self, id: str, deadline: Deadline) -> dict[str, Any]:
        """A job's status; raises what it failed with."""
        from neurobento.client.job_calls import failure_of

        status = self._status(id, deadline)
        if status["state"] == "failed":
            raise failure_of(status)
        return status

    def _status(self, id: str, deadline: Deadline | None = None) -> dict[str, Any]:
        _require(ID.fullmatch(id), "id", "32 hexadecimal digits, as `submit` gives them")
        calls = self._job_calls()
        return self._asked(lambda deadline: calls.status(id, deadline), None, deadline)

    def delete_job(self, id: str) -> None:
        """End a job, if it has not ended, and have its scan and its result forgotten.

        Raises
        ------
        ConfigError
            Over gRPC, or for what is no id.
        JobNotFound
            There is no such job, or no more.
        ServiceError
            There is no answer.
        """
        _require(ID.fullmatch(id), "id", "32 hexadecimal digits, as `submit` gives them")
        calls = self._job_calls()
        tries = 0

        def delete(deadline: Deadline) -> None:
            nonlocal tries
            tries += 1
            try:
                calls.delete(id, deadline)
            except JobNotFound:
                # an earlier try deleted it, and its answer was lost
                if tries == 1:
                    raise

        self._asked(delete, None)


def _require(holds: object, subject: str, expected: str) -> None:
    if not holds:
        raise ConfigError(
            subject=subject, expected=expected, found="something else", remedy="Give one like that."
        )
