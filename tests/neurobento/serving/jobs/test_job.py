"""Entries of the jobs' database: servers of several versions share it."""

from __future__ import annotations

import json

from neurobento.serving.jobs.job import Job, from_json, to_json

STORED = {
    "id": "an id",
    "key": "a key",
    "created": 1.5,
    "request": "a hash",
    "model": "regions",
    "level": "stripped",
    "space": "native",
}
"""A job as version 0.1.0 wrote it."""


def test_a_job_is_stored_as_version_0_1_0_stored_it() -> None:
    job = from_json(Job, json.dumps(STORED).encode())
    assert (job.model, job.preprocessing, job.space) == ("regions", "stripped", "native")
    assert json.loads(to_json(job)) == STORED


def test_fields_of_a_newer_version_are_left_out() -> None:
    job = from_json(Job, json.dumps({**STORED, "priority": 3}).encode())
    assert from_json(Job, to_json(job)) == job
