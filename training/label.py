"""Old name of `training.parcellation.label`, kept for one release."""

from neurobento.command import run_old_name

run_old_name(__name__, "training.parcellation.label")
