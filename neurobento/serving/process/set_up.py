"""Preparations of the service's processes before they serve."""

from __future__ import annotations

import sys

from neurobento.serving.bentoml_patches import apply_patches
from neurobento.serving.http.paths import KNOWN_PATHS
from neurobento.serving.process.child_process import die_with_parent
from neurobento.serving.process.main_process import Drain, hold_home
from neurobento.serving.process.memory import return_memory_to_os
from neurobento.serving.process.run_folder import remove_leftovers
from neurobento.serving.settings import bentoml_home
from neurobento.serving.tasks.uploaded_file import UPLOAD_PREFIX
from neurobento.serving.telemetry.logs import set_up_logging

__all__ = ["remove_uploads", "set_up_front", "set_up_process"]

BENTOML_UPLOAD_PREFIX = "bento-ml-request-"


def set_up_process(drain_s: float) -> None:
    """Set up logging and apply all patches of BentoML; the one effect of importing service.py.

    The process of `bentoml serve` holds BENTOML_HOME from now on.
    """
    set_up_logging()
    hold_home(sys.argv, bentoml_home())
    # paths with ids are left out too: each job would add its own series
    apply_patches(is_known_path=KNOWN_PATHS.__contains__, drain=Drain(drain_s))


def set_up_front() -> None:
    """Prepare the process of the front, and remove what its killed predecessor left."""
    die_with_parent()
    return_memory_to_os()
    remove_uploads()


def remove_uploads() -> None:
    """Remove uploads, BentoML's and ours; no request may be in progress."""
    remove_leftovers(BENTOML_UPLOAD_PREFIX, UPLOAD_PREFIX)
