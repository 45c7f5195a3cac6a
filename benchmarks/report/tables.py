"""The report's tables, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.inference.candidates import yardstick_of
from benchmarks.inference.end_to_end import REGISTRATION
from benchmarks.report.comparison import REPORT_A, REPORT_A_GPU, Machine, Timing, timings, totals
from benchmarks.results import Entry, Kind, Run, summary
from benchmarks.service.overhead import IN_PROCESS

__all__ = [
    "backends_table",
    "end_to_end_table",
    "fault_answers_table",
    "faults_table",
    "jobs_table",
    "load_table",
    "memory_table",
    "offline_table",
    "overhead_table",
    "prediction_table",
    "registration_table",
    "soak_table",
    "stage_means",
    "table",
]

BETWEEN = "between stages"

REPORT_RATIO = 196
"""Report A, chapter 5: registration takes at least that many times as long as the network."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def prediction_table(machines: Sequence[Machine]) -> str:
    """Report A's table 4.3 with ours beside it; mean ± SD in seconds."""
    rows = []
    for machine in machines:
        alone = [timing for timing in timings(machine) if timing.batch == 1]
        whole = [t for t in totals(machine) if t.model != REGISTRATION]
        for model in dict.fromkeys(timing.model for timing in [*alone, *whole]):
            eager = [t for t in alone if t.candidate == yardstick_of(model)]
            best, end = _fastest(alone, model), _fastest(whole, model)
            rows.append(
                [
                    model,
                    "{:.3f} ± {:.3f}".format(*REPORT_A[model]) if model in REPORT_A else "",
                    machine.name,
                    _spread(eager[0]) if eager else "",
                    _spread(best) if best else "",
                    best.candidate.removeprefix(f"{model} ") if best else "",
                    _ratio(best.own_ratio) if best else "",
                    _ratio(best.report_ratio) if best else "",
                    _spread(end) if end else "",
                ]
            )
    head = [
        *("network", f"report A, {REPORT_A_GPU}", "our machine", "PyTorch fp32 eager"),
        *("our fastest", "which", "times as fast", "as fast as report A's U-Net in PyTorch"),
        "end to end, our fastest",
    ]
    return table(head, rows)


def backends_table(machine: Machine, kind: Kind = "latency") -> str:
    """Network alone, one scan, or one of "slices", at a time (SingleStream), in seconds."""
    rows = [
        [
            *(timing.candidate, _spread(timing)),
            *(_fine(timing.seconds[name]) for name in ("p50", "p95", "p99")),
            *(_ratio(timing.own_ratio), _ratio(timing.report_ratio)),
        ]
        for timing in timings(machine, kind)
        if timing.batch == 1
    ]
    head = ["candidate", "mean ± SD", "p50", "p95", "p99", "x own PyTorch", "x report's U-Net"]
    return table(head, rows)


def offline_table(machine: Machine, kind: Kind = "latency") -> str:
    """Network alone, in batches (Offline): median seconds of a scan; empty with batch 1 alone."""
    found = timings(machine, kind)
    batches = sorted({timing.batch for timing in found})
    if batches in ([], [1]):
        return ""
    cells = {(t.candidate, t.batch): _fine(t.seconds["p50"]) for t in found}
    rows = [
        [name, *(cells.get((name, batch), "") for batch in batches)]
        for name in dict.fromkeys(timing.candidate for timing in found)
    ]
    return table(["candidate", *(f"batch {batch}" for batch in batches)], rows)


def stage_means(entry: Entry) -> dict[str, float]:
    """Mean seconds of each stage, and of what passes between them: together the total's mean."""
    means = {
        name.removesuffix("_s"): float(np.mean(values)) for name, values in entry.samples.items()
    }
    total = means.pop("total")
    return {**means, BETWEEN: total - sum(means.values())}


def end_to_end_table(run: Run) -> str:
    """Where each second goes: mean seconds of a stage and its share of the whole."""
    columns = {name: stage_means(entry) for name, entry in run.entries.items() if entry.samples}
    stages = dict.fromkeys(stage for means in columns.values() for stage in means)
    ordered = [*(stage for stage in stages if stage != BETWEEN), BETWEEN]
    rows = [
        [stage.replace("_", " "), *(_share(means, stage) for means in columns.values())]
        for stage in ordered
    ]
    total = [f"{sum(means.values()):.2f} s" for means in columns.values()]
    return table(["stage", *columns], [*rows, ["all", *total]])


def registration_table(run: Run) -> str:
    """Registration of the atlas against each network; empty where it was not measured."""
    peer = run.entries.get(REGISTRATION)
    if peer is None or not peer.samples:
        return ""
    slow = summary(peer.samples["register_s"])["p50"]
    rows = [["report A", "", "", f"at least {REPORT_RATIO}"]]
    for name, entry in run.entries.items():
        if name != REGISTRATION and entry.samples:
            quick = summary(entry.samples["infer_s"])["p50"]
            rows.append([name, f"{slow:.2f}", f"{quick:.3f}", f"{slow / quick:.1f}"])
    return table(["network", "registration, s", "network, s", "times"], rows)


def memory_table(machine: Machine) -> str:
    """Peaks in GB (10^9 bytes)."""
    rows = []
    for run in machine.of("memory"):
        for entry in run.entries.values():
            peaks = {name: max(values) for name, values in entry.samples.items()}
            baseline, peak = peaks["host_baseline_bytes"], peaks["host_peak_bytes"]
            device = peaks.get("device_peak_bytes")
            name = " ".join(str(entry.facts[key]) for key in ("model", "backend", "precision"))
            rows.append(
                [
                    *(name, str(entry.facts["batch"]), _gigabytes(baseline), _gigabytes(peak)),
                    *(_gigabytes(peak - baseline), "" if device is None else _gigabytes(device)),
                ]
            )
    head = ["candidate", "batch", "host, libraries alone", "host, peak", "rise", "GPU, peak"]
    return table(head, rows)


ANSWER_HEAD = ("ok", "refused", "failed", "timeout", "p50, s", "p99, s", "other statuses")


def load_table(machine: Machine) -> str:
    """Open-loop load; seconds from when a request was due."""
    rows = []
    for run in machine.of("load"):
        told = f"{run.scenario['service']}, {run.scenario['model']}, {run.scenario['protocol']}"
        rows += [[told, *_load_cells(entry)] for entry in run.entries.values()]
    head = [
        *("service", "requests/s", "sent", "ok", "refused", "failed", "timeout"),
        *("p50", "p95", "p99", "refusal p50", "answered/s", "mean batch", "batches"),
    ]
    return table(head, rows)


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
        *(f"{facts['rate_per_s']:g}", str(facts["sent"])),
        *(str(facts["outcomes"].get(o, 0)) for o in ("ok", "refused", "failed", "timeout")),
        *(f"{answered[p]:.3f}" if answered else "" for p in ("p50", "p95", "p99")),
        *(refusal, f"{facts['throughput_per_s']:.3f}"),
        *(f"{scans / count:.2f}" if count else "", ", ".join(sizes)),
    ]


def soak_table(machine: Machine) -> str:
    """Many clients for long: their answers, and how much each process grew."""
    rows = []
    for run in machine.of("soak"):
        told = f"{run.scenario['clients']} clients, {run.scenario['minutes']:g} minutes"
        grown = {
            name.removeprefix("memory of "): entry.facts["last_minute_over_third"]
            for name, entry in run.entries.items()
            if name.startswith("memory of ")
        }
        most = ", ".join(f"{name} {g:.3f}" for name, g in grown.items() if g is not None)
        for protocol in run.scenario["protocols"]:
            rows.append([told, protocol, *_answer_cells(run.entries[protocol]), most])
    return table(["soak", "protocol", *ANSWER_HEAD, "memory, last minute over the third"], rows)


def overhead_table(machine: Machine) -> str:
    """The service against the library in process; medians, and their ratios."""
    rows = []
    for run in machine.of("overhead"):
        own = run.entries[IN_PROCESS].samples
        for name, entry in run.entries.items():
            cells = [name]
            for quantity in ("alone_s", "scans_per_s"):
                median = summary(entry.samples[quantity])["p50"]
                cells += [f"{median:.3f}", f"{median / summary(own[quantity])['p50']:.2f}"]
            rows.append([*cells, str(entry.facts["clients_at_once"])])
    return table(
        ["way", "alone, s", "x in process", "scans/s", "x in process", "clients at once"], rows
    )


def faults_table(machine: Machine) -> str:
    """Processes killed under load: seconds until the server was whole again."""
    rows = []
    for run in machine.of("faults"):
        for name, entry in run.entries.items():
            if name.startswith("kill "):
                seconds = entry.samples["whole_again_s"]
                kind = name.removeprefix("kill ")
                median = summary(seconds)["p50"]
                rows.append([kind, str(len(seconds)), f"{median:.1f}", f"{max(seconds):.1f}"])
    return table(["process killed", "times", "whole again, median s", "worst s"], rows)


def fault_answers_table(machine: Machine) -> str:
    """What callers saw while processes died."""
    rows = [
        [name, *_answer_cells(entry)]
        for run in machine.of("faults")
        for name, entry in run.entries.items()
        if not name.startswith("kill ")
    ]
    return table(["protocol", *ANSWER_HEAD], rows)


def jobs_table(machine: Machine) -> str:
    """Jobs under a server that is killed again and again."""
    rows = []
    for run in machine.of("jobs"):
        jobs, database = run.entries["jobs"], run.entries["database"]
        facts, sizes = jobs.facts, database.facts["bytes"]
        counts = ("kills", "jobs", "done", "right_labels", "ended_twice", "keys_with_two_ids")
        again = summary(jobs.samples["ready_again_s"])["p50"]
        late = max(jobs.samples["gone_after_their_time_s"])
        rows.append(
            [
                str(database.facts["kind"]),
                *(str(facts[name]) for name in (*counts, "begun_again")),
                *(f"{again:.1f}", f"{late:.1f}"),
                " / ".join(f"{size / 1e6:.1f}" for size in sizes.values()),
            ]
        )
    head = ["database", "kills", "jobs", "done", "right labels", "ended twice", "keys of two jobs"]
    head += ["begun again", "ready again, median s", "gone too late, s"]
    return table([*head, "MB: empty / all waiting / all done / all gone"], rows)


def _answer_cells(entry: Entry) -> list[str]:
    outcomes = entry.facts["outcomes"]
    answered = summary(entry.samples["ok_s"]) if "ok_s" in entry.samples else {}
    others = {s: n for s, n in entry.facts["statuses"].items() if s not in ("200", "OK")}
    return [
        *(str(outcomes.get(o, 0)) for o in ("ok", "refused", "failed", "timeout")),
        *(f"{answered[p]:.3f}" if answered else "" for p in ("p50", "p99")),
        ", ".join(f"{status}: {count}" for status, count in others.items()),
    ]


def _fastest(found: Sequence[Timing], model: str) -> Timing | None:
    own = [timing for timing in found if timing.model == model]
    return min(own, key=lambda timing: timing.seconds["p50"], default=None)


def _spread(timing: Timing) -> str:
    """Mean ± SD; of a single sample the sample."""
    mean, sd = timing.seconds["mean"], timing.seconds["sd"]
    # of a slice it is a fraction of a millisecond
    digits = 3 if mean >= 0.02 else 6
    return f"{mean:.{digits}f} ± {sd:.{digits}f}" if timing.samples > 1 else f"{mean:.3f} (one run)"


def _fine(seconds: float) -> str:
    return f"{seconds:.4f}" if seconds >= 0.02 else f"{seconds:.6f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _share(means: Mapping[str, float], stage: str) -> str:
    if stage not in means:
        return ""
    return f"{means[stage]:.2f} s ({100 * means[stage] / sum(means.values()):.1f} %)"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f}"
