"""Old name of `training.studies.compare_cleanups`, kept for one release."""

from neurobento.command import run_old_name

run_old_name(__name__, "training.studies.compare_cleanups")
