"""Tables of a service show what its runs hold."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.report.comparison import group_by_machine
from benchmarks.report.service import (
    fault_outcomes_table,
    faults_table,
    load_table,
    overhead_table,
    soak_table,
)
from benchmarks.runs import Entry, Run
from tests.benchmarks.report.cells import cells

MakeRun = Callable[..., Run]


def test_load_shows_the_outcome_of_every_request(make_run: MakeRun) -> None:
    facts = {
        "rate_per_s": 2.0,
        "sent": 5,
        "throughput_per_s": 1.5,
        "statuses": {},
        "outcomes": {"ok": 3, "refused": 2},
        "batch_sizes": {"runner-compact": {"up to 1": 0, "up to 2": 2, "batches": 2, "scans": 3}},
    }
    samples = {"ok_s": [1.0, 2.0, 3.0], "refused_s": [0.01, 0.03]}
    empty = {**facts, "outcomes": {"failed": 5}, "batch_sizes": {}}
    scenario = {"service": "neurobento", "model": "compact", "protocol": "http"}
    run = make_run("load", {"2/s": Entry(facts, samples), "4/s": Entry(empty)}, scenario)
    rows = cells(load_table(group_by_machine([run])[0]))
    assert rows[0] == [
        *("neurobento, compact, http", "2", "5", "3", "2", "0", "0"),
        *("2.000", "2.900", "2.980", "0.020", "1.500", "1.50", "up to 2: 2"),
    ]
    assert rows[1][6:11] == ["0", "", "", "", ""]


def test_tables_of_soak_overhead_and_faults(make_run: MakeRun) -> None:
    answers = Entry(
        {"outcomes": {"ok": 3, "failed": 1}, "statuses": {"200": 3, "503": 1}},
        {"ok_s": [1.0, 2.0, 3.0], "failed_s": [0.1]},
    )
    memory = Entry({"last_minute_over_third": 1.034})
    scenario = {"clients": 16, "minutes": 10, "protocols": ["http"]}
    in_process = Entry({"clients_at_once": 1}, {"alone_s": [1.0], "scans_per_s": [1.0]})
    http = Entry({"clients_at_once": 8}, {"alone_s": [1.1], "scans_per_s": [1.5]})
    killed = Entry({}, {"whole_again_s": [4.0, 9.0]})
    runs = [
        make_run("soak", {"http": answers, "memory of master": memory}, scenario),
        make_run("overhead", {"in process": in_process, "http": http}),
        make_run("faults", {"kill preprocessing": killed, "http": answers}),
    ]
    (machine,) = group_by_machine(runs)
    row = soak_table(machine).splitlines()[-1]
    assert "| 3 | 0 | 1 | 0 | 2.000 |" in row
    assert "503: 1" in row
    assert "master 1.034" in row
    assert overhead_table(machine).splitlines()[-1] == "| http | 1.100 | 1.10 | 1.500 | 1.50 | 8 |"
    assert faults_table(machine).splitlines()[-1] == "| preprocessing | 2 | 6.5 | 9.0 |"
    assert fault_outcomes_table(machine).splitlines()[-1].startswith("| http | 3 | 0 | 1 | 0 |")
