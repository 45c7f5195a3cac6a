"""Run durable jobs, each scan's after its request was answered; see docs/decisions/0013-jobs.md."""

from neurobento.serving.jobs.database import Database
from neurobento.serving.jobs.limits import JobLimits
from neurobento.serving.jobs.queue import JobQueue
from neurobento.serving.jobs.worker import JobWorker

__all__ = ["Database", "JobLimits", "JobQueue", "JobWorker"]
