"""Each model has a runner of its own, which BentoML packs with the model."""

from __future__ import annotations

import asyncio
from typing import Any

import bentoml
import pytest

from neurobento.registry import model_tag
from neurobento.serving.runners import (
    all_ready,
    depends_on_runners,
    runner_attribute,
    runner_service,
)
from neurobento.spec import ModelSpec

SPECS = [
    ModelSpec("compact", "1.2.0", "compact", "0" * 64, "0" * 64, 18),
    ModelSpec("slices", "0.3.0", "anomaly_unet", "1" * 64, "1" * 64, 18, task="anomaly"),
]
API_OF_TASK = {"parcellation": "segment", "anomaly": "detect"}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.task)
def test_a_runner_names_its_model_for_bentoml_batches_its_task_and_describes_it(
    spec: ModelSpec,
) -> None:
    runner = runner_service(spec)
    assert runner.name == f"runner-{spec.name}"
    assert [str(model.tag) for model in runner.models] == [model_tag(spec)]
    assert {*runner.apis} == {API_OF_TASK[spec.task], "describe"}
    assert runner.apis[API_OF_TASK[spec.task]].batchable
    assert not runner.apis["describe"].batchable


def test_a_front_depends_on_the_runner_of_every_model() -> None:
    @bentoml.service
    @depends_on_runners(SPECS)
    class Front:
        pass

    assert Front.dependencies.keys() == {runner_attribute(spec.name) for spec in SPECS}
    assert {"runner-compact", "runner-slices"} <= Front.all_services().keys()


@pytest.mark.parametrize(
    ("answers", "ready"),
    [([True, True], True), ([True, False], False), ([True, OSError("gone")], False)],
)
def test_a_service_is_ready_when_all_parts_say_so(answers: list[Any], ready: bool) -> None:
    class Part:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        async def is_ready(self, timeout_s: float) -> bool:
            if isinstance(self.answer, Exception):
                raise self.answer
            return bool(self.answer)

    assert asyncio.run(all_ready([Part(answer) for answer in answers])) == ready
