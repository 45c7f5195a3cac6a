"""The log of a server says which jobs were done."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.service.job_server import count_completions


def test_only_jobs_that_were_done_are_counted(tmp_path: Path) -> None:
    lines = [
        {"protocol": "job", "status": 200, "request_id": "a"},
        {"protocol": "job", "status": 200, "request_id": "b"},
        {"protocol": "job", "status": "given back", "request_id": "a"},
        {"protocol": "http", "status": 200, "request_id": "a"},
        {"protocol": "job", "status": 200, "request_id": "b"},
    ]
    log = tmp_path / "log"
    log.write_text("".join(json.dumps(each) + "\n" for each in lines) + "{ cut\nother words\n")
    assert count_completions(log) == {"a": 1, "b": 2}
