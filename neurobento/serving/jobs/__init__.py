"""Durable jobs: scans that are worked on after the request that brought them was answered.

A database holds all there is to know: the scans, whose turn it is, the results. Servers share it,
and any of them may be killed at any time; what each step leaves behind when nothing
follows it is what `JobQueue.sweep` looks for. docs/decisions/0013-jobs.md says why so.
"""

from neurobento.serving.jobs.database import Database
from neurobento.serving.jobs.queue import JobQueue
from neurobento.serving.jobs.sweep import JobLimits
from neurobento.serving.jobs.worker import JobWorker

__all__ = ["Database", "JobLimits", "JobQueue", "JobWorker"]
