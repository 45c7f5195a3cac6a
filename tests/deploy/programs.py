"""Programs of deploy/, started here as there: only names of hosts, ports and paths are others."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx


def put_here(text: str, places: Mapping[str, str]) -> str:
    """A text with each place of a container replaced by the one here; each has to be in it."""
    for there, here in places.items():
        assert there in text, f"{there} is not in it"
        text = text.replace(there, here)
    return text


@contextlib.contextmanager
def program(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def until(found: Callable[[], Any], seconds: float) -> Any:
    """What is found as soon as it is something, or at last."""
    end = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < end:
        time.sleep(0.5)
    return value


class Prometheus:
    """What a running Prometheus says.

    Parameters
    ----------
    url
        Where it is.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=f"{url}/", timeout=10)

    def get(self, path: str, **query: str) -> Any:
        """The data of one answer; None while it cannot be reached."""
        try:
            answer = self._client.get(f"api/v1/{path}", params=query)
        except httpx.TransportError:
            return None
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def ask(self, query: str) -> list[Any]:
        """The series that a query gives now."""
        found = self.get("query", query=query)
        return found["result"] if found else []

    def health(self) -> dict[str, str]:
        """Job -> how its target is."""
        targets = self.get("targets")
        return (
            {t["labels"]["job"]: t["health"] for t in targets["activeTargets"]} if targets else {}
        )

    def close(self) -> None:
        self._client.close()
