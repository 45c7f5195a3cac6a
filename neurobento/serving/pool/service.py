"""The service that prepares scans and slices in a pool of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bentoml

from neurobento.errors import ServiceError
from neurobento.registry import list_specs
from neurobento.serving.pool.serialisation import pack_error
from neurobento.serving.process.child_process import die_with_parent
from neurobento.serving.process.memory import return_memory_to_os
from neurobento.serving.service_options import DEPENDENCY_OPTIONS
from neurobento.serving.settings import SETTINGS
from neurobento.spec import REPORT_A_VERSION

__all__ = ["Preprocessing"]


@bentoml.service(name="preprocessing", **DEPENDENCY_OPTIONS)
class Preprocessing:
    """Reads and prepares scans and slices in a pool of processes."""

    def __init__(self) -> None:
        from neurobento.serving.pool.pool import PreprocessingPool

        die_with_parent()
        return_memory_to_os()
        specs = [spec for spec in list_specs(SETTINGS.models) if spec.task == "parcellation"]
        versions = {spec.preprocessing_version for spec in specs}
        self.pool = PreprocessingPool(SETTINGS.processes, SETTINGS.threads, versions)

    @bentoml.on_startup
    async def start(self) -> None:
        """Start the pool; images on the network grid are served before the rest is warm."""
        await self.pool.start()

    def __is_ready__(self) -> bool:
        """Return whether every process has imported what it needs."""
        return self.pool.warm

    @bentoml.api
    async def prepare(
        self, path: str, kind: str, ticket: str, version: int = REPORT_A_VERSION
    ) -> dict[str, Any]:
        """Return what was made of a file, or an error, packed; see `pool.serialisation`."""
        try:
            return await self.pool.prepare(
                Path(path),
                kind,  # type: ignore[arg-type]
                ticket,
                version,
            )
        except ServiceError as error:
            return pack_error(error)

    @bentoml.api
    async def end(self, ticket: str) -> None:
        """End the work of a ticket."""
        await self.pool.end(ticket)

    @bentoml.api
    async def end_all(self) -> None:
        """End all work; a starting server calls this, since its predecessor's clients are gone."""
        await self.pool.end_all()

    @bentoml.on_shutdown
    async def close(self) -> None:
        """End the pool with the service."""
        await self.pool.close()
