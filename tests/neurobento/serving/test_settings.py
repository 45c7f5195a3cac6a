"""What the environment says is taken, and what it cannot mean is refused by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from neurobento.errors import ConfigError
from neurobento.serving.settings import CORES, Settings, misspelt_variables

WHOLE = {
    "THREADS": "threads",
    "PREPROCESSING_PROCESSES": "processes",
    "SLOTS": "slots",
    "MAX_BODY_BYTES": "body_bytes",
    "GRPC_PORT": "grpc_port",
    "MAX_BATCH": "max_batch",
    "JOBS_AT_ONCE": "jobs_at_once",
    "JOBS_MOST": "jobs_most",
}
SECONDS = {
    "LONGEST_WAIT_S": "longest_wait_s",
    "TIMEOUT_S": "timeout_s",
    "DRAIN_S": "drain_s",
    "UPLOAD_S": "upload_s",
    "JOBS_KEEP_S": "jobs_keep_s",
}
TEXT = {
    "BACKEND": "backend",
    "DEVICE": "device",
    "PRECISION": "precision",
    "GRPC_HOST": "grpc_host",
    "JOBS": "jobs",
    "OTLP_ENDPOINT": "otlp_endpoint",
}
AT_LEAST_ONE = ("THREADS", "PREPROCESSING_PROCESSES", "SLOTS", "MAX_BODY_BYTES")
AT_LEAST_ONE += ("TIMEOUT_S", "UPLOAD_S", "JOBS_MOST", "JOBS_KEEP_S")
MAY_BE_NOTHING = ("GRPC_PORT", "MAX_BATCH", "LONGEST_WAIT_S", "DRAIN_S", "JOBS_AT_ONCE")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("NEUROBENTO_"):
            monkeypatch.delenv(name)


def test_with_nothing_set_a_request_has_half_an_hour_and_half_a_gibibyte() -> None:
    found = Settings()
    assert (found.timeout_s, found.body_bytes, found.slots) == (1800, 512 << 20, 16)
    assert (found.backend, found.models, found.grpc_host) == ("auto", None, "127.0.0.1")


VALUES: list[tuple[dict[str, str], Any]] = [(WHOLE, 7), (SECONDS, 7.5), (TEXT, "some")]
VALUES.append(({"MODELS": "models"}, Path("/srv/models")))


@pytest.mark.parametrize(
    ("name", "field", "value"), [(*pair, v) for fields, v in VALUES for pair in fields.items()]
)
def test_a_variable_is_taken(
    name: str, field: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds may be fractions."""
    monkeypatch.setenv(f"NEUROBENTO_{name}", str(value))
    found = getattr(Settings(), field)
    assert found == value
    assert isinstance(found, type(value))


def test_names_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().served == ()
    monkeypatch.setenv("NEUROBENTO_SERVED", " regions, anomaly,")
    assert Settings().served == ("regions", "anomaly")


def test_every_field_has_its_variable() -> None:
    named = {field for fields, _ in VALUES for field in fields.values()}
    assert named | {"served"} == Settings.__dataclass_fields__.keys()


def test_the_old_name_of_slots_is_read_where_the_new_one_is_not_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEUROBENTO_PLACES", "3")
    assert Settings().slots == 3
    monkeypatch.setenv("NEUROBENTO_SLOTS", "5")
    assert Settings().slots == 5
    monkeypatch.delenv("NEUROBENTO_SLOTS")
    assert "NEUROBENTO_PLACES" in str(refusal("PLACES", "none", monkeypatch))


def refusal(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> ConfigError:
    monkeypatch.setenv(f"NEUROBENTO_{name}", value)
    with pytest.raises(ConfigError) as caught:
        Settings()
    return caught.value


@pytest.mark.parametrize("name", [*WHOLE, *SECONDS])
def test_what_is_no_number_is_refused_by_its_variables_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("many", "", "-1", "nan", "inf", "1,5"):
        error = refusal(name, value, monkeypatch)
        assert f"NEUROBENTO_{name}" in str(error)
        assert repr(value) in error.found


@pytest.mark.parametrize("name", WHOLE)
def test_a_fraction_of_what_is_counted_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refusal(name, "2.5", monkeypatch)
    assert f"NEUROBENTO_{name}" in str(error)
    assert "whole number" in error.expected


def test_nothing_is_too_little_but_for_some(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AT_LEAST_ONE:
        assert "at least 1" in refusal(name, "0", monkeypatch).expected
        monkeypatch.delenv(f"NEUROBENTO_{name}")
    for name in MAY_BE_NOTHING:
        monkeypatch.setenv(f"NEUROBENTO_{name}", "0")
        assert getattr(Settings(), {**WHOLE, **SECONDS}[name]) == 0


@pytest.mark.parametrize("threads", [1, 2, CORES, 10 * CORES])
def test_processes_share_the_cores(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROBENTO_THREADS", str(threads))
    processes = Settings().processes
    assert processes >= 1
    assert processes == 1 or processes * threads <= CORES


def test_the_limits_of_a_request_are_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """BentoML's own timeout is never the first."""
    for name, value in (("MAX_BODY_BYTES", "10"), ("TIMEOUT_S", "20"), ("UPLOAD_S", "30")):
        monkeypatch.setenv(f"NEUROBENTO_{name}", value)
    limits = Settings().limits
    assert (limits.body_bytes, limits.request_s, limits.upload_s) == (10, 20, 30)
    for timeout_s in ("1", "1.9", "1800"):
        monkeypatch.setenv("NEUROBENTO_TIMEOUT_S", timeout_s)
        found = Settings()
        assert found.bento_timeout_s >= found.timeout_s + 30


MISSPELT = {
    "NEUROBENTO_GRPC_PROT": "NEUROBENTO_GRPC_PORT",
    "NEUROBENTO_TIMEOUT": "NEUROBENTO_TIMEOUT_S",
    "NEUROBENTO_MODEL": "NEUROBENTO_MODELS",
    "neurobento_threads": "NEUROBENTO_THREADS",
    "NEUROBENTO_MAX_BODY_BYTE": "NEUROBENTO_MAX_BODY_BYTES",
    "NEUROBENTO_TOKENFILE": "NEUROBENTO_TOKEN_FILE",
    # of Kubernetes, for a service named neurobento
    "NEUROBENTO_PORT_3000_TCP": None,
    "NEUROBENTO_SERVICE_HOST": None,
    "NEUROBENTO_PORT": None,
}


@pytest.mark.parametrize("name", MISSPELT)
def test_a_misspelt_variable_is_found_and_one_of_others_is_not(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    meant = MISSPELT[name]
    assert misspelt_variables() == ({name: meant} if meant else {})


def test_no_variable_that_is_read_is_a_misspelt_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*WHOLE, *SECONDS, *TEXT, "MODELS", "SERVED", "TOKEN", "TOKEN_FILE", "ENGINES"):
        monkeypatch.setenv(f"NEUROBENTO_{name}", "1")
    monkeypatch.setenv("NEUROBENTO_RUN", "x")
    monkeypatch.setenv("NEUROBENTO_PLACES", "1")
    assert misspelt_variables() == {}
