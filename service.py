"""The BentoML services and how they hang together.

    NeuroBento (HTTP) ── Preprocessing (a pool of processes)
                     └── one runner per network (adaptive batching)

Environment: NEUROBENTO_THREADS (of a scan's preprocessing and of a runner;
default all cores), NEUROBENTO_PREPROCESSING_PROCESSES (scans prepared at the
same time; default cores / threads), NEUROBENTO_BACKEND and
NEUROBENTO_PRECISION (default auto), NEUROBENTO_TIMEOUT_S (of a request;
default 1800), NEUROBENTO_MAX_BODY_BYTES (default 512 MiB), NEUROBENTO_MODELS
(folder of the models to serve; default models/).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.models import BentoModel
from bentoml.validators import ContentType

from neurobento.registry import DEFAULT_MODEL, list_specs, model_tag
from neurobento.spec import ModelSpec
from serving.front import GZIP, ZIP, Front, Options, answered
from serving.gate import Gate
from serving.logs import begin_logging
from serving.models_page import models_app
from serving.uploads import refuse_urls

CORES = len(os.sched_getaffinity(0))
THREADS = int(os.environ.get("NEUROBENTO_THREADS", CORES))
PROCESSES = int(os.environ.get("NEUROBENTO_PREPROCESSING_PROCESSES", max(1, CORES // THREADS)))
TIMEOUT_S = int(os.environ.get("NEUROBENTO_TIMEOUT_S", 1800))
MAX_BODY_BYTES = int(os.environ.get("NEUROBENTO_MAX_BODY_BYTES", 512 << 20))
MAX_BATCH = 8

MODELS = os.environ.get("NEUROBENTO_MODELS")

SPECS = list_specs(Path(MODELS) if MODELS else None)

DEPENDENCY: dict[str, Any] = {
    "workers": 1,
    "traffic": {"timeout": TIMEOUT_S},
    # BentoML's default closes connections under calls in flight
    "runner_connection": {"max_requests": 10**9, "max_age": 1e9},
}

begin_logging()
refuse_urls()


@bentoml.service(name="preprocessing", threads=4 * PROCESSES, **DEPENDENCY)
class Preprocessing:
    """Reads and prepares scans in a pool of processes."""

    def __init__(self) -> None:
        from serving.pool import PreprocessingPool

        self.pool = PreprocessingPool(PROCESSES, THREADS)
        self.pool.warm_up()

    @bentoml.api
    def prepare(self, path: str, level: str) -> dict[str, Any]:
        """A prepared scan or an error, packed; see `serving.wire`."""
        return self.pool.prepare(Path(path), level)  # type: ignore[arg-type]

    @bentoml.on_shutdown
    def close(self) -> None:
        """End the pool with the service."""
        self.pool.close()


def _runner(spec: ModelSpec) -> Any:
    """The service that runs one model."""

    @bentoml.service(name=f"runner-{spec.name}", **DEPENDENCY)
    class Runner:
        """Labels for batches of images on the network grid."""

        stored = BentoModel(model_tag(spec))

        def __init__(self) -> None:
            from neurobento.backends import open_backend
            from neurobento.registry import open_model

            self.backend = open_backend(
                open_model(Path(self.stored.path)),
                os.environ.get("NEUROBENTO_BACKEND", "auto"),
                precision=os.environ.get("NEUROBENTO_PRECISION", "auto"),
                threads=THREADS,
            )
            # ready means warm: the first inference also allocates
            self.backend.infer(np.zeros((1, *spec.input_shape), dtype=np.float32))

        # a latency bound would drop requests by a learned estimate; load is shed in front
        @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=1000 * TIMEOUT_S)
        def segment(self, images: np.ndarray) -> np.ndarray:
            """Labels (N, 91, 122, 123) uint8 of images (N, 1, 91, 122, 123) float32."""
            return self.backend.infer(images)

        @bentoml.api
        def describe(self) -> dict[str, Any]:
            """Model and backend, for run.json."""
            from neurobento.report import backend_facts

            return backend_facts(self.backend)

    return Runner


RUNNERS = {spec.name: f"runner_{spec.name}" for spec in SPECS}
Runners = type(
    "Runners", (), {RUNNERS[spec.name]: bentoml.depends(_runner(spec)) for spec in SPECS}
)


@bentoml.asgi_app(models_app(SPECS), path="/v1")
@bentoml.service(name="neurobento", threads=32, workers=1, traffic={"timeout": TIMEOUT_S})
class NeuroBento(Runners):  # type: ignore[misc, valid-type]
    """Brain-MRI parcellation: a T1-weighted scan in, its 116 AAL regions out, in its own space."""

    preprocessing = bentoml.depends(Preprocessing)

    def __init__(self) -> None:
        runners = {name: getattr(self, attribute) for name, attribute in RUNNERS.items()}
        self.front = Front(self.preprocessing, runners)

    @bentoml.api(route="/predict/")
    @answered
    def predict(self, file: Path, *, ctx: bentoml.Context) -> Annotated[Path, ContentType(GZIP)]:
        """Report A's API: `?preprocessing=true|false&model=NAME[&space=network]`; gzip NIfTI."""
        options = Options.of_report(ctx.request.query_params, DEFAULT_MODEL)
        return self.front.labels(file, options)  # type: ignore[return-value]

    @bentoml.api(route="/v1/parcellation")
    @answered
    def parcellation(
        self,
        file: Path,
        model: str = DEFAULT_MODEL,
        preprocessing: str = "full",
        space: str = "native",
        *,
        ctx: bentoml.Context,
    ) -> Annotated[Path, ContentType(ZIP)]:
        """A zip of labels, look-up table, volumes, picture and run facts; or, by
        `Accept: application/gzip`, the labels alone."""
        options = Options(model, preprocessing, space)
        wants_labels = GZIP in ctx.request.headers.get("accept", "")
        answer = self.front.labels if wants_labels else self.front.outputs
        return answer(file, options)  # type: ignore[return-value]


NeuroBento.add_asgi_middleware(Gate, max_body_bytes=MAX_BODY_BYTES)
