"""The services that run one model each, with adaptive batching."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import bentoml
import numpy as np
from bentoml.exceptions import ServiceUnavailable
from bentoml.models import BentoModel

from neurobento.default_models import DEFAULT_ANOMALY_MODEL, DEFAULT_MODEL
from neurobento.errors import ConfigError
from neurobento.registry import list_specs, model_tag
from neurobento.serving.batching import batch_limit
from neurobento.serving.process.child_process import die_with_parent, lower_priority
from neurobento.serving.service_options import DEPENDENCY_OPTIONS
from neurobento.serving.settings import SETTINGS
from neurobento.serving.tasks.anomaly.batches import pack_outputs
from neurobento.serving.tasks.parcellation.image_files import segment_files
from neurobento.serving.telemetry.metrics import observe_stages, time_stage
from neurobento.spec import ModelSpec

__all__ = ["all_ready", "depends_on_runners", "runner_attribute", "runner_service", "served_specs"]

Front = TypeVar("Front")


class _ModelRunner:
    """Opens the model that a subclass names in `stored`, which is in BentoML's model store."""

    stored: Any

    def __init__(self) -> None:
        from neurobento.backends import open_backend
        from neurobento.registry import open_model

        die_with_parent()
        lower_priority()
        self.backend = open_backend(
            open_model(Path(self.stored.path)),
            SETTINGS.backend,
            device=SETTINGS.device,
            precision=SETTINGS.precision,
            threads=SETTINGS.threads,
        )
        self.spec = self.backend.spec
        # a warm-up: the first inference also allocates
        self.backend.run(np.zeros((1, *self.spec.input_shape), dtype=np.float32))

    @bentoml.api
    def describe(self) -> dict[str, Any]:
        """Return the facts of model and backend, for run.json."""
        from neurobento.facts import backend_facts

        return backend_facts(self.backend)


def runner_service(spec: ModelSpec) -> Any:
    """Make the BentoML service that runs a model.

    BentoML packs a model only if it is an attribute of the class, so each model has its own class.
    """
    batching = {
        "batchable": True,
        "max_batch_size": batch_limit(spec),
        # a real bound would drop requests by a learned estimate; the front refuses them before
        "max_latency_ms": 1000 * SETTINGS.bento_timeout_s,
    }
    make = {"parcellation": _segmenter, "anomaly": _detector}[spec.task]
    as_service = bentoml.service(name=f"runner-{spec.name}", **DEPENDENCY_OPTIONS)
    return as_service(make(spec, batching))


def _segmenter(spec: ModelSpec, batching: dict[str, Any]) -> type:
    class Segmenter(_ModelRunner):
        """Answers for batches of images on the network grid."""

        stored = BentoModel(model_tag(spec))

        @bentoml.api(**batching)
        def segment(self, files: np.ndarray) -> np.ndarray:
            """Return answers (N, ...) to images in files, named (N, 1024); see `image_files`."""
            try:
                return segment_files(files, spec, self._infer, self._observe_wait)
            except MemoryError:
                raise ServiceUnavailable("no memory for one more scan") from None

        def _infer(self, images: np.ndarray) -> np.ndarray:
            with time_stage("network", spec.name):
                return self.backend.answer(images)

        def _observe_wait(self, seconds: float) -> None:
            observe_stages(spec.name, {"queue": seconds})

    return Segmenter


def _detector(spec: ModelSpec, batching: dict[str, Any]) -> type:
    class Detector(_ModelRunner):
        """Scores and error maps for batches of slices."""

        stored = BentoModel(model_tag(spec))

        @bentoml.api(**batching)
        def detect(self, images: np.ndarray) -> np.ndarray:
            """Return packed outputs (see `batches`) for images (N, 1, 128, 128) float32."""
            start = time.perf_counter()
            try:
                with time_stage("network", spec.name):
                    outputs = self.backend.run(images)
                return pack_outputs(outputs, time.perf_counter() - start)
            except MemoryError:
                raise ServiceUnavailable("no memory for one more slice") from None

    return Detector


def served_specs() -> list[ModelSpec]:
    """Return the specs of the models to serve, each of which gets a runner.

    Raise ConfigError if one is not there. The brain finder runs where scans are prepared.
    """
    specs = {spec.name: spec for spec in list_specs(SETTINGS.models) if spec.task != "brain"}
    defaults = (DEFAULT_MODEL, DEFAULT_ANOMALY_MODEL)
    names = SETTINGS.served or (("all",) if SETTINGS.models else defaults)
    if names == ("all",):
        return list(specs.values())
    if missing := [name for name in names if name not in specs]:
        raise ConfigError(
            subject="NEUROBENTO_SERVED",
            expected=f"all, or names among {', '.join(specs)}",
            found=", ".join(missing),
            remedy="Correct the names, or unset it for the default models.",
        )
    return [spec for name, spec in specs.items() if name in names]


def runner_attribute(model: str) -> str:
    """Return the name of the front's attribute that holds a model's runner."""
    return f"runner_{model}"


def depends_on_runners(specs: Sequence[ModelSpec]) -> Callable[[type[Front]], type[Front]]:
    """Decorate the front's class with a BentoML dependency for each model's runner."""

    def decorate(front: type[Front]) -> type[Front]:
        for spec in specs:
            setattr(front, runner_attribute(spec.name), bentoml.depends(runner_service(spec)))
        return front

    return decorate


async def all_ready(services: Sequence[Any]) -> bool:
    """Return whether all services answer that they are ready."""
    answers = await asyncio.gather(
        *(service.is_ready(5) for service in services), return_exceptions=True
    )
    return all(answer is True for answer in answers)
