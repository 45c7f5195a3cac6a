"""The thresholds and the task that a model's spec states."""

from __future__ import annotations

import pytest

from neurobento.anomaly.thresholds import scan_threshold, slice_threshold
from neurobento.errors import ConfigError, SpecMismatch
from neurobento.spec import require_task
from tests.neurobento.anomaly.known_anomaly import SCAN_THRESHOLD, known_spec


@pytest.mark.parametrize("task", ["anomaly", "parcellation"])
def test_a_model_is_for_its_own_task_alone(task: str) -> None:
    (other,) = {"anomaly", "parcellation"} - {task}
    require_task(known_spec(task), task)
    with pytest.raises(ConfigError) as caught:
        require_task(known_spec(task), other)
    assert repr(other) in caught.value.expected
    assert repr(task) in caught.value.found
    assert "`neurobento models`" in caught.value.remedy
    assert {"anomaly": "`neurobento anomaly`", "parcellation": "`neurobento parcellate`"}[
        task
    ] in caught.value.remedy


def test_a_threshold_of_slices_must_be_a_number_and_one_of_scans_may_be_missing() -> None:
    for detection in ({}, {"threshold": float("nan")}):
        with pytest.raises(SpecMismatch, match="threshold"):
            slice_threshold(known_spec("anomaly", detection=detection))
    assert scan_threshold(known_spec("anomaly")) == SCAN_THRESHOLD
    assert scan_threshold(known_spec("anomaly", detection={"threshold": 0.5})) is None
    with pytest.raises(SpecMismatch, match="scan_threshold"):
        scan_threshold(known_spec("anomaly", detection={"scan_threshold": float("inf")}))
