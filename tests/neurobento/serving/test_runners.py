"""Each model has a runner of its own, which BentoML packs with the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bentoml
import pytest

from neurobento.errors import ConfigError
from neurobento.registry import model_tag
from neurobento.serving import runners
from neurobento.serving.runners import (
    all_ready,
    depends_on_runners,
    runner_attribute,
    runner_service,
    served_specs,
)
from neurobento.spec import ModelSpec

SPECS = [
    ModelSpec("regions", "1.2.0", "compact", "0" * 64, "0" * 64, 18),
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
    assert {"runner-regions", "runner-slices"} <= Front.all_services().keys()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """Return the names that are served of four models, with a given setting."""
    specs = [
        *SPECS,
        ModelSpec("anomaly", "1.0.0", "mirror", "2" * 64, "2" * 64, 18, task="anomaly"),
    ]
    specs.append(ModelSpec("brain", "1.0.0", "brain_finder", "3" * 64, "3" * 64, 18, task="brain"))
    monkeypatch.setattr(runners, "list_specs", lambda folder: specs)
    monkeypatch.setattr(runners, "DEFAULT_MODEL", "regions")

    def names(served: tuple[str, ...] = (), *, own_folder: bool = False) -> list[str]:
        models = tmp_path if own_folder else None
        monkeypatch.setattr(runners, "SETTINGS", SimpleNamespace(models=models, served=served))
        return [spec.name for spec in served_specs()]

    return names


def test_the_default_models_are_served_unless_others_are_named(
    serve: Callable[..., list[str]],
) -> None:
    assert serve() == ["regions", "anomaly"]
    assert serve(("slices", "regions")) == ["regions", "slices"]
    assert serve(("all",)) == ["regions", "slices", "anomaly"]


def test_all_of_a_folder_that_is_given_is_served(serve: Callable[..., list[str]]) -> None:
    assert serve(own_folder=True) == ["regions", "slices", "anomaly"]


def test_a_model_that_is_not_there_is_an_error_at_start(serve: Callable[..., list[str]]) -> None:
    with pytest.raises(ConfigError, match="brain, unknown"):
        serve(("regions", "brain", "unknown"))


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
