"""A server with durable jobs that can be killed and started again on the same database."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurobento.errors import ConfigError
from neurobento.registry import DEFAULT_MODEL

__all__ = ["JobServer", "count_completions"]

ROOT = Path(__file__).resolve().parents[2]
READY_S = 180.0
LABELS = "scan_dseg.nii.gz"
FORM = {"preprocessing": "none", "model": DEFAULT_MODEL}


class JobServer:
    """A server in `folder`, with SQLite there or another database by its URL."""

    def __init__(self, folder: Path, database: str | None) -> None:
        self._sqlite = folder / "jobs.sqlite"
        self.database = database or f"sqlite:///{self._sqlite}"
        self.log = folder / "log"
        self._home = folder / "home"
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, keep_s: float) -> None:
        """Start the server with a lifetime for results; raise ConfigError unless it gets ready."""
        environment = os.environ | {
            "BENTOML_HOME": str(self._home),
            "NEUROBENTO_JOBS": self.database,
            "NEUROBENTO_JOBS_KEEP_S": str(keep_s),
            "NEUROBENTO_GRPC_PORT": "0",
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [ROOT / "scripts/serve", "--port", str(self._port)],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + READY_S
        while not self._is_ready():
            ended = self._process.poll() is not None
            if time.monotonic() > end or ended:
                raise ConfigError(
                    subject="the server",
                    expected=f"readiness within {READY_S:g} s",
                    found="it has ended" if ended else "it is not ready",
                    remedy=f"See its log, {self.log}.",
                )
            time.sleep(0.25)

    def kill(self) -> None:
        """Send SIGKILL to the first process; the others end with it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Send SIGTERM and wait."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(READY_S)

    def submit(self, scan: bytes, key: str) -> str:
        """Send a job with an idempotency key, until it is accepted; return its id."""
        import httpx

        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                response = httpx.post(
                    f"{self.url}/v1/jobs",
                    files={"file": ("scan", scan)},
                    data=FORM,
                    headers={"idempotency-key": key},
                    timeout=60,
                )
                if response.status_code == 202:
                    return str(response.json()["id"])
            time.sleep(0.2)
        raise RuntimeError("a job was not accepted")

    def status(self, id: str) -> dict[str, Any]:
        """Return the server's status of a job."""
        import httpx

        return dict(httpx.get(f"{self.url}/v1/jobs/{id}", timeout=60).json())

    def job_labels(self, id: str) -> bytes:
        """Return the labels' file of a job; empty if the job has no result."""
        import httpx

        response = httpx.get(f"{self.url}/v1/jobs/{id}/result", timeout=60)
        if response.status_code != 200:
            return b""
        with zipfile.ZipFile(io.BytesIO(response.content)) as files:
            return files.read(LABELS)

    def direct_labels(self, scan: bytes) -> bytes:
        """Return the labels' file of a scan sent as a single request."""
        import httpx

        response = httpx.post(
            f"{self.url}/v1/parcellation",
            files={"file": ("scan", scan)},
            data=FORM,
            headers={"accept": "application/gzip"},
            timeout=600,
        )
        response.raise_for_status()
        return response.content

    def database_bytes(self) -> int:
        """Return the size of the database: SQLite's files, or Redis's memory."""
        if self.database.startswith("sqlite"):
            files = self._sqlite.parent.glob(f"{self._sqlite.name}*")
            return sum(path.stat().st_size for path in files)
        from redis import Redis

        with contextlib.closing(Redis.from_url(self.database)) as redis:
            return sum(int(redis.memory_usage(key) or 0) for key in redis.scan_iter())

    def _is_ready(self) -> bool:
        import httpx

        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def count_completions(log: Path) -> Mapping[str, int]:
    """Return job id -> how often a server's log reports that the job was done."""
    counts: dict[str, int] = {}
    for line in log.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            values = json.loads(line) if line.startswith("{") else {}
            if values.get("protocol") == "job" and values.get("status") == 200:
                counts[values["request_id"]] = counts.get(values["request_id"], 0) + 1
    return counts
