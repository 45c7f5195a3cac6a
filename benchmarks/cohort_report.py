from neurobento.command import run_old_name

run_old_name(__name__, "benchmarks.cohort.document")
