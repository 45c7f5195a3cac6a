"""Tables of a running service: load, overhead, soak, killed processes and jobs."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.markdown import table
from benchmarks.report.comparison import Machine
from benchmarks.runs import Entry, summary
from benchmarks.service.overhead import IN_PROCESS

__all__ = [
    "fault_outcomes_table",
    "faults_table",
    "jobs_table",
    "load_table",
    "overhead_table",
    "soak_table",
]

OUTCOMES = ("ok", "refused", "failed", "timeout")
OUTCOME_HEAD = (*OUTCOMES, "p50, s", "p99, s", "other statuses")
GOOD_STATUSES = ("200", "OK")
MEMORY = "memory of "


def load_table(machine: Machine) -> str:
    """Return the outcomes of open-loop load; seconds count from when a request was due."""
    rows = []
    for run in machine.runs_of("load"):
        service, model, protocol = (run.scenario[k] for k in ("service", "model", "protocol"))
        name = f"{service}, {model}, {protocol}"
        rows += [[name, *_load_cells(entry)] for entry in run.entries.values()]
    head = ["service", "requests/s", "sent", *OUTCOMES, "p50", "p95", "p99"]
    return table([*head, "refusal p50", "answered/s", "mean batch", "batches"], rows)


def _load_cells(entry: Entry) -> list[str]:
    facts, samples = entry.facts, entry.samples
    answered = summary(samples["ok_s"]) if "ok_s" in samples else {}
    refusal = f"{summary(samples['refused_s'])['p50']:.3f}" if "refused_s" in samples else ""
    batches: Mapping[str, Mapping[str, float]] = facts["batch_sizes"]
    count, scans = (sum(b[key] for b in batches.values()) for key in ("batches", "scans"))
    sizes = [
        f"{edge}: {number:g}"
        for histogram in batches.values()
        for edge, number in histogram.items()
        if number and edge not in ("batches", "scans")
    ]
    return [
        f"{facts['rate_per_s']:g}",
        str(facts["sent"]),
        *(str(facts["outcomes"].get(outcome, 0)) for outcome in OUTCOMES),
        *(f"{answered[p]:.3f}" if answered else "" for p in ("p50", "p95", "p99")),
        refusal,
        f"{facts['throughput_per_s']:.3f}",
        f"{scans / count:.2f}" if count else "",
        ", ".join(sizes),
    ]


def soak_table(machine: Machine) -> str:
    """Return the outcomes of a soak, and how much the memory of each process grew."""
    rows = []
    for run in machine.runs_of("soak"):
        name = f"{run.scenario['clients']} clients, {run.scenario['minutes']:g} minutes"
        growth = {
            title.removeprefix(MEMORY): entry.facts["last_minute_over_third"]
            for title, entry in run.entries.items()
            if title.startswith(MEMORY)
        }
        grown = ", ".join(f"{process} {g:.3f}" for process, g in growth.items() if g is not None)
        for protocol in run.scenario["protocols"]:
            rows.append([name, protocol, *_outcome_cells(run.entries[protocol]), grown])
    return table(["soak", "protocol", *OUTCOME_HEAD, "memory, last minute over the third"], rows)


def overhead_table(machine: Machine) -> str:
    """Return the medians of the service against the library in process, with their ratios."""
    rows = []
    for run in machine.runs_of("overhead"):
        own = run.entries[IN_PROCESS].samples
        for name, entry in run.entries.items():
            cells = [name]
            for quantity in ("alone_s", "scans_per_s"):
                median = summary(entry.samples[quantity])["p50"]
                cells += [f"{median:.3f}", f"{median / summary(own[quantity])['p50']:.2f}"]
            rows.append([*cells, str(entry.facts["clients_at_once"])])
    head = ["called", "one client, s", "x in process", "scans/s", "x in process"]
    return table([*head, "clients at once"], rows)


def faults_table(machine: Machine) -> str:
    """Return the seconds until the server recovered, by the process that was killed."""
    rows = []
    for run in machine.runs_of("faults"):
        for name, entry in run.entries.items():
            if name.startswith("kill "):
                seconds = entry.samples["whole_again_s"]
                median = summary(seconds)["p50"]
                process = name.removeprefix("kill ")
                rows.append([process, str(len(seconds)), f"{median:.1f}", f"{max(seconds):.1f}"])
    return table(["process killed", "times", "recovered after, median s", "worst s"], rows)


def fault_outcomes_table(machine: Machine) -> str:
    """Return the outcomes that callers saw while processes were killed."""
    rows = [
        [name, *_outcome_cells(entry)]
        for run in machine.runs_of("faults")
        for name, entry in run.entries.items()
        if not name.startswith("kill ")
    ]
    return table(["protocol", *OUTCOME_HEAD], rows)


JOB_COLUMNS = {
    "kills": "kills",
    "jobs": "jobs",
    "done": "done",
    "right_labels": "right labels",
    "ended_twice": "done twice",
    "keys_with_two_ids": "keys with two jobs",
    "begun_again": "started again",
}


def jobs_table(machine: Machine) -> str:
    """Return the state of all jobs after the server was killed again and again."""
    rows = []
    for run in machine.runs_of("jobs"):
        jobs, database = run.entries["jobs"], run.entries["database"]
        ready_s = summary(jobs.samples["ready_again_s"])["p50"]
        rows.append(
            [
                str(database.facts["kind"]),
                *(str(jobs.facts[key]) for key in JOB_COLUMNS),
                f"{ready_s:.1f}",
                f"{max(jobs.samples['gone_after_their_time_s']):.1f}",
                " / ".join(f"{size / 1e6:.1f}" for size in database.facts["bytes"].values()),
            ]
        )
    head = ["database", *JOB_COLUMNS.values(), "ready again, median s", "expired late by, s"]
    return table([*head, "MB: empty / all queued / all done / all expired"], rows)


def _outcome_cells(entry: Entry) -> list[str]:
    outcomes = entry.facts["outcomes"]
    answered = summary(entry.samples["ok_s"]) if "ok_s" in entry.samples else {}
    others = {s: n for s, n in entry.facts["statuses"].items() if s not in GOOD_STATUSES}
    return [
        *(str(outcomes.get(outcome, 0)) for outcome in OUTCOMES),
        *(f"{answered[p]:.3f}" if answered else "" for p in ("p50", "p99")),
        ", ".join(f"{status}: {count}" for status, count in others.items()),
    ]
