"""Run durable jobs: scans that are worked on after the request that brought them was answered.

A database holds the scans, the queue and the results. Servers share it, and any of them may be
killed at any time; the sweep finds what an interrupted step left behind. The reasons are in
docs/decisions/0013-jobs.md.
"""

from neurobento.serving.jobs.database import Database
from neurobento.serving.jobs.limits import JobLimits
from neurobento.serving.jobs.queue import JobQueue
from neurobento.serving.jobs.worker import JobWorker

__all__ = ["Database", "JobLimits", "JobQueue", "JobWorker"]
