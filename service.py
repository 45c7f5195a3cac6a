"""The BentoML services and their wiring.

    NeuroBento (HTTP and gRPC) ── Preprocessing (a pool of processes)
                              └── one runner per model (adaptive batching)

`neurobento.serving.settings` reads the environment variables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType

from neurobento.registry import DEFAULT_ANOMALY_MODEL, DEFAULT_MODEL
from neurobento.serving.admission import Admission
from neurobento.serving.batching import batch_limit
from neurobento.serving.container_image import IMAGE
from neurobento.serving.error_responses import api_error_responses
from neurobento.serving.http.downloads import GZIP, JSON, ZIP, file_response
from neurobento.serving.http.middleware import guard_requests
from neurobento.serving.http.models_page import models_app
from neurobento.serving.inference_protocol.protocol import OpenInference
from neurobento.serving.inference_protocol.rest import rest_app
from neurobento.serving.jobs import Database, JobLimits, JobQueue, JobWorker
from neurobento.serving.jobs.routes import idempotency_key, job_routes, submit_job
from neurobento.serving.pool.service import Preprocessing
from neurobento.serving.process.main_process import set_up_main_process
from neurobento.serving.process.memory import freeze_gc
from neurobento.serving.process.set_up import remove_uploads, set_up_front, set_up_process
from neurobento.serving.runners import all_ready, depends_on_runners, runner_attribute, served_specs
from neurobento.serving.service_options import SERVICE_OPTIONS
from neurobento.serving.settings import SETTINGS, read_token
from neurobento.serving.tasks.anomaly.handler import AnomalyHandler, model_thresholds
from neurobento.serving.tasks.anomaly.responses import FILE_NAMES, choose_media_type
from neurobento.serving.tasks.anomaly.tensors import AnomalyTensors
from neurobento.serving.tasks.parcellation.handler import ParcellationHandler, model_traits
from neurobento.serving.tasks.parcellation.options import ParcellationOptions
from neurobento.serving.tasks.parcellation.tensors import ParcellationTensors
from neurobento.serving.token import Token

set_up_process(SETTINGS.drain_s)

SPECS = served_specs()
ADMISSION = Admission(SETTINGS.slots, SETTINGS.processes, SETTINGS.longest_wait_s)
TOKEN = Token(read_token())


def _instance() -> Any:
    """Return the service's instance in this process."""
    return bentoml.get_current_service()


async def _ready() -> bool:
    return not ADMISSION.draining and bool(await _instance().ready())


@guard_requests(ADMISSION, SETTINGS.limits, TOKEN)
@bentoml.asgi_app(rest_app(lambda: _instance().inference, _ready), path="/v2")
@bentoml.asgi_app(models_app(SPECS, job_routes(lambda: _instance().jobs)), path="/v1")
@bentoml.service(name="neurobento", image=IMAGE, **SERVICE_OPTIONS)
@depends_on_runners(SPECS)
class NeuroBento:
    """Brain MRI: the 116 AAL regions of a T1-weighted scan, the anomaly of a single slice."""

    preprocessing = bentoml.depends(Preprocessing)

    @bentoml.on_deployment
    @staticmethod
    def prepare() -> None:
        """Prepare the process that will start all others."""
        set_up_main_process()

    def __init__(self) -> None:
        set_up_front()
        self.runners = {spec.name: getattr(self, runner_attribute(spec.name)) for spec in SPECS}
        traits = model_traits(SPECS)
        self.front = ParcellationHandler(*self._dependencies("parcellation"), *traits)
        self.slices = AnomalyHandler(*self._dependencies("anomaly"), model_thresholds(SPECS))
        scans, slices = ParcellationTensors(self.front), AnomalyTensors(self.slices)
        self.inference = OpenInference(SPECS, {"parcellation": scans, "anomaly": slices})
        self.grpc: Any = None
        limits = JobLimits(SETTINGS.jobs_most, SETTINGS.jobs_keep_s, 2 * SETTINGS.timeout_s)
        self.jobs = JobQueue(Database(SETTINGS.jobs), limits)
        self.job_worker = JobWorker(
            self.jobs,
            self.front,
            ADMISSION,
            self.ready,
            at_once=SETTINGS.jobs_at_once,
            limit_s=SETTINGS.timeout_s,
        )
        ADMISSION.open()

    def _dependencies(self, task: str) -> tuple[Any, dict[str, Any], Admission, dict[str, int]]:
        """Return the arguments of a task's handler: the services that it calls, and admission."""
        specs = [spec for spec in SPECS if spec.task == task]
        runners = {spec.name: self.runners[spec.name].to_async for spec in specs}
        batches = {spec.name: batch_limit(spec) for spec in specs}
        return self.preprocessing.to_async, runners, ADMISSION, batches

    async def ready(self) -> bool:
        """Return whether every service answers."""
        return await all_ready([self.preprocessing, *self.runners.values()])

    @bentoml.on_startup
    async def start(self) -> None:
        """End what a killed front had asked for, open gRPC, take jobs; HTTP waits for all of it."""
        await self.front.end_abandoned_work()
        # again, as that work wrote until now
        remove_uploads()
        if SETTINGS.grpc_port:
            from neurobento.serving.inference_protocol.grpc.server import GrpcServer

            self.grpc = GrpcServer(self.inference, ADMISSION, SETTINGS.limits, TOKEN, self.ready)
            await self.grpc.start(SETTINGS.grpc_host, SETTINGS.grpc_port)
        freeze_gc()
        await self.job_worker.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Close gRPC, and return unfinished jobs to the queue."""
        try:
            if self.grpc is not None:
                await self.grpc.stop()
        finally:
            await self.job_worker.stop()

    @bentoml.api(route="/predict/")
    @api_error_responses
    async def predict(
        self, file: Path, *, ctx: bentoml.Context
    ) -> Annotated[Path, ContentType(GZIP)]:
        """Return labels as gzip NIfTI: report A's `?preprocessing=true|false&model=[&space=]`."""
        options = ParcellationOptions.from_report_query(ctx.request.query_params, DEFAULT_MODEL)
        labels = await self.front.labels(file, options, ctx.request.state.context)
        return file_response(labels, "dseg.nii.gz", GZIP)  # type: ignore[return-value]

    @bentoml.api(route="/v1/parcellation")
    @api_error_responses
    async def parcellation(
        self,
        file: Path,
        model: str = DEFAULT_MODEL,
        preprocessing: str = "full",
        space: str = "native",
        *,
        ctx: bentoml.Context,
    ) -> Annotated[Path, ContentType(ZIP)]:
        """Return a zip of all output files; with `Accept: application/gzip` the labels alone."""
        options = ParcellationOptions(model, preprocessing, space)
        request = ctx.request.state.context
        if GZIP in ctx.request.headers.get("accept", ""):
            labels = await self.front.labels(file, options, request)
            return file_response(labels, "dseg.nii.gz", GZIP)  # type: ignore[return-value]
        outputs = await self.front.outputs(file, options, request)
        return file_response(outputs, "parcellation.zip", ZIP)  # type: ignore[return-value]

    @bentoml.api(route="/v1/jobs")
    @api_error_responses
    async def submit(
        self,
        file: Path,
        model: str = DEFAULT_MODEL,
        preprocessing: str = "full",
        space: str = "native",
        *,
        ctx: bentoml.Context,
    ) -> Annotated[Path, ContentType(JSON)]:
        """Start a parcellation as a job and return its id; see `/v1/jobs/ID` and its `/result`.

        A second request with the same header `Idempotency-Key` returns the first one's job.
        """
        options = ParcellationOptions(model, preprocessing, space)
        self.front.require_model(model)
        request = ctx.request.state.context
        request.model, request.preprocessing = model, options.preprocessing
        key = idempotency_key(ctx.request.headers)
        response = await submit_job(self.jobs, file, options, key)
        self.job_worker.notify()
        ctx.response.status_code = response.status_code
        ctx.response.metadata["location"] = response.headers["location"]
        return response  # type: ignore[return-value]

    @bentoml.api(route="/v1/anomaly")
    @api_error_responses
    async def anomaly(
        self, file: Path, model: str = DEFAULT_ANOMALY_MODEL, *, ctx: bentoml.Context
    ) -> Annotated[Path, ContentType(JSON)]:
        """Return score, threshold and run facts of a slice (PNG, JPEG, DICOM or NIfTI).

        With `Accept: image/png`, its heat map over it; with `application/zip`, all files.
        """
        media_type = choose_media_type(ctx.request.headers.get("accept", ""))
        content = await self.slices.response_body(
            file, model, media_type, ctx.request.state.context
        )
        return file_response(content, FILE_NAMES[media_type], media_type)  # type: ignore[return-value]
