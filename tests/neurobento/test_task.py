"""What a model is for."""

from __future__ import annotations

import pytest

from neurobento.errors import ConfigError
from neurobento.task import require_task
from tests.neurobento.known_anomaly import known_spec


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
