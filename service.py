"""The BentoML services and how they hang together.

    NeuroBento (HTTP and gRPC) ── Preprocessing (a pool of processes)
                              └── one runner per model (adaptive batching)

`neurobento.serving.settings` names the environment variables that it listens to.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.exceptions import ServiceUnavailable
from bentoml.models import BentoModel
from bentoml.validators import ContentType

from neurobento.errors import ServiceError
from neurobento.registry import DEFAULT_ANOMALY_MODEL, DEFAULT_MODEL, list_specs, model_tag
from neurobento.serving.admission import Admission
from neurobento.serving.batching import batch_limit, batch_what_waits
from neurobento.serving.container_image import IMAGE
from neurobento.serving.http.downloads import GZIP, JSON, ZIP, answered, download
from neurobento.serving.http.gate import KNOWN_PATHS, Gate
from neurobento.serving.http.models_page import models_app
from neurobento.serving.http.uploads import limit_uploads
from neurobento.serving.inference_protocol.protocol import OpenInference
from neurobento.serving.inference_protocol.rest import rest_app
from neurobento.serving.jobs import Database, JobLimits, JobQueue, JobWorker
from neurobento.serving.jobs.routes import idempotency_key, job_routes, submit_job
from neurobento.serving.pool.serialisation import pack_error
from neurobento.serving.process.master import begin_master
from neurobento.serving.process.memory import give_back_arrays, leave_imports_alone
from neurobento.serving.process.parent import end_with_parent
from neurobento.serving.process.priority import work_behind_the_front
from neurobento.serving.process.run_folder import remove_left
from neurobento.serving.settings import SETTINGS
from neurobento.serving.tasks.anomaly.batches import pack_outputs
from neurobento.serving.tasks.anomaly.handler import AnomalyHandler, thresholds_of
from neurobento.serving.tasks.anomaly.responses import FILE_NAMES, choose_media_type
from neurobento.serving.tasks.anomaly.tensors import AnomalyTensors
from neurobento.serving.tasks.parcellation.handler import Options, ParcellationHandler
from neurobento.serving.tasks.parcellation.image_files import segment_files
from neurobento.serving.tasks.parcellation.tensors import ParcellationTensors
from neurobento.serving.tasks.uploaded_file import UPLOAD_PREFIX
from neurobento.serving.telemetry.logs import begin_logging
from neurobento.serving.telemetry.metrics import count_known_paths_only, observe_stages, stage
from neurobento.serving.telemetry.tracing import tracing_options
from neurobento.serving.token import Token
from neurobento.spec import ModelSpec

SPECS = list_specs(SETTINGS.models)

UPLOAD_PREFIXES = ("bento-ml-request-", UPLOAD_PREFIX)
"""BentoML's uploads and ours; at the start, those of a process that was killed."""

COMMON: dict[str, Any] = {
    "traffic": {"timeout": SETTINGS.bento_timeout_s},
    # it repeats what clients send; the service's own lines say what there is to know
    "logging": {"access": {"enabled": False}},
    **tracing_options(),
}
DEPENDENCY: dict[str, Any] = {
    "workers": 1,
    **COMMON,
    # BentoML's default closes connections under calls in flight
    "runner_connection": {"max_requests": 10**9, "max_age": 1e9},
}

begin_logging()
limit_uploads()
batch_what_waits()
count_known_paths_only(KNOWN_PATHS.__contains__)
ADMISSION = Admission(SETTINGS.places, SETTINGS.processes, SETTINGS.longest_wait_s)
TOKEN = Token.of_environment()


@bentoml.service(name="preprocessing", **DEPENDENCY)
class Preprocessing:
    """Reads and prepares scans and slices in a pool of processes."""

    def __init__(self) -> None:
        from neurobento.serving.pool.pool import PreprocessingPool

        end_with_parent()
        give_back_arrays()
        self.pool = PreprocessingPool(SETTINGS.processes, SETTINGS.threads)

    @bentoml.on_startup
    async def start(self) -> None:
        """Level `none` is served as soon as it can be."""
        await self.pool.start()

    def __is_ready__(self) -> bool:
        """Ready means warm: every process has imported what it needs."""
        return self.pool.warm

    @bentoml.api
    async def prepare(self, path: str, kind: str, ticket: str) -> dict[str, Any]:
        """What was made of a file, or an error, packed; see `neurobento.serving.pool.serialisation`."""
        try:
            return await self.pool.prepare(Path(path), kind, ticket)  # type: ignore[arg-type]
        except ServiceError as error:
            return pack_error(error)

    @bentoml.api
    async def end(self, ticket: str) -> None:
        """End the work of a ticket."""
        await self.pool.end(ticket)

    @bentoml.api
    async def end_all(self) -> None:
        """End all work: those who asked for it are gone."""
        await self.pool.end_all()

    @bentoml.on_shutdown
    async def close(self) -> None:
        """End the pool with the service."""
        await self.pool.close()


class _Network:
    """What runs one model; BentoML's store has it under `stored`."""

    stored: Any

    def __init__(self) -> None:
        from neurobento.backends import open_backend
        from neurobento.registry import open_model

        end_with_parent()
        work_behind_the_front()
        self.backend = open_backend(
            open_model(Path(self.stored.path)),
            SETTINGS.backend,
            device=SETTINGS.device,
            precision=SETTINGS.precision,
            threads=SETTINGS.threads,
        )
        self.spec = self.backend.spec
        # ready means warm: the first inference also allocates
        self.backend.run(np.zeros((1, *self.spec.input_shape), dtype=np.float32))

    @bentoml.api
    def describe(self) -> dict[str, Any]:
        """Model and backend, for run.json."""
        from neurobento.facts import backend_facts

        return backend_facts(self.backend)


def _batching(spec: ModelSpec) -> dict[str, Any]:
    return {
        "batchable": True,
        "max_batch_size": batch_limit(spec),
        # a latency bound would drop requests by a learned estimate; load is shed in front
        "max_latency_ms": 1000 * SETTINGS.bento_timeout_s,
    }


def _segmenter(spec: ModelSpec) -> Any:
    """The service that runs one model for parcellation."""

    @bentoml.service(name=f"runner-{spec.name}", **DEPENDENCY)
    class Segmenter(_Network):
        """Labels for batches of images on the network grid."""

        stored = BentoModel(model_tag(spec))

        @bentoml.api(**_batching(spec))
        def segment(self, files: np.ndarray) -> np.ndarray:
            """Labels (N, 91, 122, 123) uint8 of images in files, (N, 1024) uint8 of their names."""
            try:
                return segment_files(files, self._infer, self._waited)
            except MemoryError:
                raise ServiceUnavailable("no memory for one more scan") from None

        def _infer(self, images: np.ndarray) -> np.ndarray:
            with stage("network", spec.name):
                return self.backend.infer(images)

        def _waited(self, seconds: float) -> None:
            observe_stages(spec.name, {"queue": seconds})

    return Segmenter


def _detector(spec: ModelSpec) -> Any:
    """The service that runs one model for anomalies."""

    @bentoml.service(name=f"runner-{spec.name}", **DEPENDENCY)
    class Detector(_Network):
        """Scores and error maps for batches of slices."""

        stored = BentoModel(model_tag(spec))

        @bentoml.api(**_batching(spec))
        def detect(self, images: np.ndarray) -> np.ndarray:
            """What is found in images (N, 1, 128, 128) float32; see `neurobento.serving.tasks.anomaly.batches`."""
            start = time.perf_counter()
            try:
                with stage("network", spec.name):
                    outputs = self.backend.run(images)
                return pack_outputs(outputs, time.perf_counter() - start)
            except MemoryError:
                raise ServiceUnavailable("no memory for one more slice") from None

    return Detector


RUNNER_OF_TASK = {"parcellation": _segmenter, "anomaly": _detector}
RUNNERS = {spec.name: f"runner_{spec.name}" for spec in SPECS}
Runners = type(
    "Runners",
    (),
    {RUNNERS[spec.name]: bentoml.depends(RUNNER_OF_TASK[spec.task](spec)) for spec in SPECS},
)


def _here() -> Any:
    """The instance that this process serves."""
    return bentoml.get_current_service()


async def _ready() -> bool:
    return not ADMISSION.draining and bool(await _here().ready())


@bentoml.asgi_app(rest_app(lambda: _here().inference, _ready), path="/v2")
@bentoml.asgi_app(models_app(SPECS, job_routes(lambda: _here().jobs)), path="/v1")
@bentoml.service(name="neurobento", workers=1, image=IMAGE, **COMMON)
class NeuroBento(Runners):  # type: ignore[misc, valid-type]
    """Brain MRI: the 116 AAL regions of a T1-weighted scan, the anomaly of a single slice."""

    preprocessing = bentoml.depends(Preprocessing)

    @bentoml.on_deployment
    @staticmethod
    def prepare() -> None:
        """Once, in the process that starts the others."""
        begin_master(SETTINGS.drain_s)

    def __init__(self) -> None:
        end_with_parent()
        give_back_arrays()
        remove_left(*UPLOAD_PREFIXES)
        self.parts = [self.preprocessing, *(getattr(self, name) for name in RUNNERS.values())]
        self.front = ParcellationHandler(*self._behind("parcellation"))
        self.slices = AnomalyHandler(*self._behind("anomaly"), thresholds_of(SPECS))
        self.inference = OpenInference(
            SPECS,
            {
                "parcellation": ParcellationTensors(self.front),
                "anomaly": AnomalyTensors(self.slices),
            },
        )
        self.grpc: Any = None
        limits = JobLimits(SETTINGS.jobs_most, SETTINGS.jobs_keep_s, 2 * SETTINGS.timeout_s)
        self.jobs = JobQueue(Database(SETTINGS.jobs), limits)
        self.job_worker = JobWorker(
            *(self.jobs, self.front, ADMISSION, self.ready),
            *(SETTINGS.jobs_at_once, SETTINGS.timeout_s),
        )
        ADMISSION.open()

    def _behind(self, task: str) -> tuple[Any, dict[str, Any], Admission, dict[str, int]]:
        """What the front of a task has behind it."""
        specs = [spec for spec in SPECS if spec.task == task]
        runners = {spec.name: getattr(self, RUNNERS[spec.name]).to_async for spec in specs}
        batches = {spec.name: batch_limit(spec) for spec in specs}
        return self.preprocessing.to_async, runners, ADMISSION, batches

    async def ready(self) -> bool:
        """Whether every part answers."""
        found = await asyncio.gather(
            *(part.is_ready(5) for part in self.parts), return_exceptions=True
        )
        return all(each is True for each in found)

    @bentoml.on_startup
    async def end_left_work(self) -> None:
        """What a front that was killed had asked for is of no use to anybody."""
        await self.front.end_left_work()
        # again, as that work may have written until now; nobody is let in before this has ended:
        # HTTP waits for every startup method, and BentoML calls them by name, so gRPC opens later
        remove_left(*UPLOAD_PREFIXES)

    @bentoml.on_startup
    async def open_grpc(self) -> None:
        """Answer over gRPC too."""
        if SETTINGS.grpc_port:
            from neurobento.serving.inference_protocol.grpc.server import GrpcServer

            self.grpc = GrpcServer(self.inference, ADMISSION, SETTINGS.limits, TOKEN, self.ready)
            await self.grpc.start(SETTINGS.grpc_host, SETTINGS.grpc_port)
        # nothing more is imported
        leave_imports_alone()

    @bentoml.on_startup
    async def start_jobs(self) -> None:
        """Go on with what a server that was killed left, and take new jobs."""
        await self.job_worker.start()

    @bentoml.on_shutdown
    async def stop_jobs(self) -> None:
        """Give back what is under way."""
        await self.job_worker.stop()

    @bentoml.on_shutdown
    async def close_grpc(self) -> None:
        """End it with the service."""
        if self.grpc is not None:
            await self.grpc.stop()

    @bentoml.api(route="/predict/")
    @answered
    async def predict(
        self, file: Path, *, ctx: bentoml.Context
    ) -> Annotated[Path, ContentType(GZIP)]:
        """Report A's API: `?preprocessing=true|false&model=NAME[&space=network]`; gzip NIfTI."""
        options = Options.of_report(ctx.request.query_params, DEFAULT_MODEL)
        labels = await self.front.labels(file, options, ctx.request.state.call)
        return download(labels, "dseg.nii.gz", GZIP)  # type: ignore[return-value]

    @bentoml.api(route="/v1/parcellation")
    @answered
    async def parcellation(
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
        call = ctx.request.state.call
        if GZIP in ctx.request.headers.get("accept", ""):
            labels = await self.front.labels(file, options, call)
            return download(labels, "dseg.nii.gz", GZIP)  # type: ignore[return-value]
        outputs = await self.front.outputs(file, options, call)
        return download(outputs, "parcellation.zip", ZIP)  # type: ignore[return-value]

    @bentoml.api(route="/v1/jobs")
    @answered
    async def submit(
        self,
        file: Path,
        model: str = DEFAULT_MODEL,
        preprocessing: str = "full",
        space: str = "native",
        *,
        ctx: bentoml.Context,
    ) -> Annotated[Path, ContentType(JSON)]:
        """A parcellation as a job: 202 and its id. `GET /v1/jobs/ID` says how it stands,
        `GET /v1/jobs/ID/result` gives what `/v1/parcellation` would have, `DELETE /v1/jobs/ID`
        ends it. A second request with the same header `Idempotency-Key` is the first one's job."""
        options = Options(model, preprocessing, space)
        self.front.require(model)
        call = ctx.request.state.call
        call.model, call.preprocessing = model, options.preprocessing
        key = idempotency_key(ctx.request.headers)
        answer = await submit_job(self.jobs, file, options, key)
        self.job_worker.say_new()
        ctx.response.status_code = answer.status_code
        ctx.response.metadata["location"] = answer.headers["location"]
        return answer  # type: ignore[return-value]

    @bentoml.api(route="/v1/anomaly")
    @answered
    async def anomaly(
        self, file: Path, model: str = DEFAULT_ANOMALY_MODEL, *, ctx: bentoml.Context
    ) -> Annotated[Path, ContentType(JSON)]:
        """Of a slice (PNG, JPEG, DICOM or NIfTI): score, threshold and facts of the run; or, by
        `Accept: image/png`, where it is anomalous; or, by `application/zip`, all files."""
        media_type = choose_media_type(ctx.request.headers.get("accept", ""))
        found = await self.slices.answer(file, model, media_type, ctx.request.state.call)
        return download(found, FILE_NAMES[media_type], media_type)  # type: ignore[return-value]


NeuroBento.add_asgi_middleware(Gate, admission=ADMISSION, limits=SETTINGS.limits, token=TOKEN)
