"""The documents quote what the result files say, and their links lead somewhere."""

from __future__ import annotations

import csv
import functools
import json
import re
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cohort import document as cohort_document
from benchmarks.report.comparison import REPORT_A

ROOT = Path(__file__).parent.parent
EVALUATION = ROOT / "results/evaluation/compact/evaluation.json"
COMPARISON = max((ROOT / "results/evaluation").glob("*.json"))
BENCHMARKS = ROOT / "benchmarks/results"
HEADS = ROOT / "results/heads"

DOCUMENTS = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "docs/decisions/*.md")
    for path in sorted(ROOT.glob(pattern))
]
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]+)?\)")
PATH = re.compile(
    r"`((?:neurobento|training|export|benchmarks|tests|scripts|deploy|docs|models|requirements)/"
    r"[a-z0-9_./-]*)`"
)
MODULE = re.compile(r"\b((?:neurobento|training|export|benchmarks)(?:\.[a-z]\w*)+)\b(?!/)")
CODE = ("neurobento/", "training/", "export/", "benchmarks/")
DICE_KEYS = {"mean", "sd", "low", "high", "dice", "reference_dice", "best_validation_dice"}


@functools.cache
def read_text(document: str) -> str:
    return (ROOT / document).read_text()


@functools.cache
def unwrapped(document: str) -> str:
    """Return a document as one line, so that a quotation may run over a line's end."""
    return " ".join(read_text(document).split())


@functools.cache
def comparison() -> Any:
    """Return the comparison of the models as they ship: the one source of their Dice."""
    return json.loads(COMPARISON.read_text())


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, made as GitHub makes them."""
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_document_is_checked() -> None:
    assert {"README.md", "MODEL_CARD.md", "docs/usage.md", "docs/architecture.md"} < {*DOCUMENTS}
    assert sum(name.startswith("docs/decisions/") for name in DOCUMENTS) >= 14


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings_of_this_repository(document: str) -> None:
    file = ROOT / document
    targets = [(t, anchor) for t, anchor in LINK.findall(file.read_text()) if "://" not in t]
    for target, anchor in targets:
        linked = file.parent / target if target else file
        assert linked.exists(), f"{document} links to {target}"
        if anchor:
            assert anchor[1:] in anchors(linked), f"{document} links to {target}{anchor}"


def test_every_page_is_linked_from_its_index() -> None:
    for index, pattern in (("README.md", "docs/*.md"), ("docs/decisions/README.md", "[0-9]*.md")):
        folder = (ROOT / index).parent
        linked = {target for target, _ in LINK.findall(read_text(index))}
        assert {path.relative_to(folder).as_posix() for path in folder.glob(pattern)} <= linked


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_in_prose_exist_and_nothing_is_left_to_fill_in(document: str) -> None:
    assert not re.search(r"@[A-Z]+@", read_text(document))
    prose = re.sub(r"```.*?```", "", read_text(document), flags=re.DOTALL)
    missing = [path for path in PATH.findall(prose) if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_modules_in_documents_exist(document: str) -> None:
    named = {name for name in MODULE.findall(read_text(document)) if not name.endswith(".md")}
    missing = [name for name in named if not module_exists(name)]
    assert not missing


def module_exists(name: str) -> bool:
    """Return whether a dotted name is a module of this repository, or something in one."""
    path = ROOT.joinpath(*name.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    source = path.parent.with_suffix(".py")
    source = source if source.is_file() else path.parent / "__init__.py"
    return source.is_file() and bool(re.search(rf"\b{path.name}\b", source.read_text()))


def tree_paths() -> set[str]:
    """Return the paths in the first block of docs/architecture.md, whose indentation nests them."""
    block = read_text("docs/architecture.md").split("```text\n")[1].split("```")[0]
    parents: list[str] = []
    paths = set()
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        paths.add("".join(parents))
    return paths


def test_the_tree_in_the_architecture_is_the_repository() -> None:
    files = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    folders = {f"{parent.as_posix()}/" for file in files for parent in Path(file).parents} - {"./"}
    assert tree_paths() <= {*files} | folders
    named = {path for path in folders if path.startswith(CODE) and path.count("/") <= 2}
    named |= {path for path in folders if path.startswith("neurobento/serving/")}
    named |= {path for path in files if re.fullmatch(r"neurobento/(serving/)?[a-z]\w*\.py", path)}
    named -= {f"{parent}/data/" for parent in ("training", "benchmarks")}
    assert named - tree_paths() == set()


def test_the_card_has_every_models_dice_on_the_network_grid() -> None:
    for name in ("ds002748", "oasis_trt_20"):
        for model, network in comparison()["networks"].items():
            summary = network["groups"][name]["summary"]
            quoted = f"| {summary['mean']:.4f} ± {summary['sd']:.4f} |"
            assert quoted in read_text("MODEL_CARD.md"), f"{model} on {name}"


def quoted_row(summary: dict[str, Any]) -> str:
    if summary["sd"] is None:
        return f"| {summary['count']} | {summary['mean']:.4f} | n/a | n/a |"
    interval = f"{summary['low']:.4f} to {summary['high']:.4f}"
    return f"| {summary['count']} | {summary['mean']:.4f} | {summary['sd']:.4f} | {interval} |"


def test_the_default_model_is_quoted_with_its_interval() -> None:
    report, checkpoint = comparison(), json.loads(EVALUATION.read_text())
    groups = report["networks"]["compact"]["groups"]
    rows = [group["summary"] for group in groups.values()]
    rows += [report["noise_ceiling"]["summary"], checkpoint["summary"]["ixi_2mm_with_skull"]]
    for summary in rows:
        assert quoted_row(summary) in read_text("MODEL_CARD.md")


def test_the_other_figure_of_the_default_model_is_explained() -> None:
    """The checkpoint's Dice, which spec.json repeats, is quoted once and with its source."""
    mean = json.loads(EVALUATION.read_text())["summary"]["ds002748"]["mean"]
    text = unwrapped("MODEL_CARD.md")
    assert text.count(f"{mean:.4f}") == 1
    assert f"show {mean:.4f} for `compact`: that is its checkpoint" in text
    assert f"{mean:.4f}" not in read_text("README.md")


def measured_dice(value: Any) -> Iterator[str]:
    """Yield every Dice, mean, SD and limit of a result, as documents write them."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key in DICE_KEYS and isinstance(part, float):
                yield f"{part:.4f}"
            yield from measured_dice(part)
    elif isinstance(value, list):
        for part in value:
            yield from measured_dice(part)


@pytest.mark.parametrize("document", ["README.md", "MODEL_CARD.md"])
def test_every_dice_comes_from_a_result(document: str) -> None:
    files = [*ROOT.glob("results/**/*.json"), *ROOT.glob("models/*/spec.json")]
    known = {dice for path in files for dice in measured_dice(json.loads(path.read_text()))}
    known |= {f"{model['dice'] / 100:.4f}" for model in comparison()["report_a"].values()}
    assert {*re.findall(r"\b0\.\d{4}\b", read_text(document))} <= known


def test_the_best_and_worst_regions_are_those_measured() -> None:
    regions = COMPARISON.with_name(f"{COMPARISON.stem}_regions.csv").read_text()
    rows = csv.DictReader(regions.splitlines())
    dice = sorted((float(row["compact_dice_mean"]), row["name"]) for row in rows)
    text = unwrapped("MODEL_CARD.md")
    for ordered, opening in ((dice[:5], "ten scans: "), (dice[::-1][:5], "Highest: ")):
        assert opening + ", ".join(f"{name} {mean:.2f}" for mean, name in ordered) + "." in text


def test_seconds_are_quoted_as_they_were_measured() -> None:
    for model, network in comparison()["networks"].items():
        seconds = f"| {statistics.mean(network['prediction_s']):.1f} |"
        assert seconds in read_text("MODEL_CARD.md"), model


def test_a_heads_seconds_are_quoted_as_they_were_measured() -> None:
    text = unwrapped("README.md")
    regions, robex = (head_s(f"{name} openvino fp32") for name in ("regions", "compact"))
    assert f"takes {regions['total_s']:.1f} s in all" in text
    assert f"with `compact` behind ROBEX {robex['total_s']:.1f} s" in text
    page = unwrapped("docs/benchmarks.md")
    for entry in json.loads((HEADS / "end_to_end.json").read_text())["entries"]:
        assert f"| {head_s(entry)['total_s']:.2f} |" in page, entry
    peak = max(
        json.loads((HEADS / "memory.json").read_text())["entries"]["regions openvino fp32"][
            "samples"
        ]["host_peak_bytes"]
    )
    assert f"peaks at {peak / 1e9:.2f} GB" in page
    entries = json.loads((HEADS / "overhead.json").read_text())["entries"]
    alone = {name: statistics.median(entries[name]["samples"]["alone_s"]) for name in entries}
    ratio = alone["http"] / alone["in process"]
    assert f"takes {ratio:.2f} times as long as in process" in page


def head_s(entry: str) -> dict[str, float]:
    """Return the median seconds of every stage of a head."""
    samples = json.loads((HEADS / "end_to_end.json").read_text())["entries"][entry]["samples"]
    return {stage: statistics.median(values) for stage, values in samples.items()}


def test_scores_in_native_space_are_quoted_as_they_were_measured() -> None:
    card, readme = unwrapped("MODEL_CARD.md"), unwrapped("README.md")
    for file in ("stripped", "manual", "transplanted", "ixi"):
        found = json.loads((ROOT / f"results/native/{file}.json").read_text())
        shipped = {name: model_sha256(name) for name in found["models"]}
        assert found["models"] == shipped, file
        for model, kinds in found["summary"].items():
            for kind, summary in kinds.items():
                if "_minus_" in kind:
                    continue
                quoted = f"{summary['mean']:.3f} ({summary['low']:.3f} to {summary['high']:.3f})"
                assert quoted in card, f"{file}: {model}, {kind}"
                if file in ("stripped", "manual") and model in ("regions", "compact", "atlas_map"):
                    assert f"| {summary['mean']:.3f} |" in readme, f"{file}: {model}, {kind}"


def test_the_brain_finder_is_quoted_as_it_was_measured() -> None:
    found = json.loads((ROOT / "results/brain/brain.json").read_text())
    assert found["model"]["onnx_sha256"] == model_sha256("brain")
    for kind in ("real", "drawn"):
        summary = found[kind]
        quoted = f"| {summary['count']} | {summary['mean']:.3f} | {summary['lowest']:.3f} |"
        assert quoted in unwrapped("MODEL_CARD.md"), kind


def test_stability_is_quoted_as_it_was_measured() -> None:
    card = unwrapped("MODEL_CARD.md")
    for path in (ROOT / "results/stability").glob("*.json"):
        found = json.loads(path.read_text())
        assert found["models"] == {name: model_sha256(name) for name in found["models"]}
        names = {name for entry in found["entries"].values() for name in entry["samples"]}
        for name in names:
            means = [
                f"{statistics.mean(entry['samples'][name]):.3f}"
                for entry in found["entries"].values()
            ]
            assert f"| {name} | {' | '.join(means)} |" in card, f"{path.name}: {name}"


def model_sha256(name: str) -> str:
    spec = json.loads((ROOT / "models" / name / "spec.json").read_text())
    return str(spec["onnx_sha256"])


def test_the_shipped_model_carries_the_measured_dice() -> None:
    spec = json.loads((ROOT / "models/compact/spec.json").read_text())
    evaluation = json.loads(EVALUATION.read_text())
    assert spec["metrics"] == evaluation["summary"]
    assert spec["checkpoint_sha256"] == evaluation["checkpoint_sha256"]


def test_the_independent_truth_is_quoted_as_it_was_measured() -> None:
    report = comparison()
    found = report["independent_truth"]["oasis_trt_20"]
    means = {maker: sum(d.values()) / len(d) for maker, d in found["dice"].items()}
    text = unwrapped("MODEL_CARD.md")
    assert f"{means['compact']:.3f} against {means['registration']:.3f}" in text
    assert f"p = {found['against_registration']['compact']['p_text']} " in text
    oasis = report["networks"]["compact"]["groups"]["oasis_trt_20"]["summary"]
    assert f"Dice of {oasis['mean']:.4f} (SD {oasis['sd']:.4f})" in text


def test_every_network_that_ships_is_quoted_as_it_was_measured() -> None:
    networks, text = comparison()["networks"], unwrapped("MODEL_CARD.md")
    specs = [json.loads(p.read_text()) for p in (ROOT / "models").glob("*/spec.json")]
    # the comparison is on report A's images
    specs = [s for s in specs if s["task"] == "parcellation" and s["preprocessing"]["version"] == 1]
    shipped = {s["name"]: s["onnx_sha256"] for s in specs}
    assert {name: network["onnx_sha256"] for name, network in networks.items()} == shipped
    for name, network in networks.items():
        for group in network["groups"].values():
            summary = group["summary"]
            sd = "" if summary["sd"] is None else f" ± {summary['sd']:.4f}"
            assert f"| {summary['mean']:.4f}{sd} |" in text, f"{name}: {summary}"


def test_anomalies_are_quoted_as_they_were_measured() -> None:
    report = json.loads((ROOT / "results/anomaly/anomaly.json").read_text())
    card, usage, readme = map(unwrapped, ("MODEL_CARD.md", "docs/usage.md", "README.md"))
    figures = [method["by"]["chosen"] for method in report["methods"].values()]
    for found in (*figures, *report["facts"].values()):
        for key in ("auroc", "auprc", "tpr_at_10_fpr"):
            low, high = found[key]["interval"]
            assert f"| {found[key]['value']:.3f} ({low:.3f} to {high:.3f}) |" in card
    mirror = report["methods"]["mirror"]["by"]["chosen"]
    low, high = mirror["auroc"]["interval"]
    assert f"AUROC {mirror['auroc']['value']:.3f} ({low:.3f} to {high:.3f})" in readme
    assert f"`anomaly` {mirror['auroc']['value']:.3f} ({low:.3f} to {high:.3f})" in usage
    components = report["methods"]["principal components"]["by"]["chosen"]
    assert f"components reach {components['auroc']['value']:.3f}" in usage
    for name, words in (
        ("vgg16_autoencoder", "report B's autoencoder reaches"),
        ("anomaly_unet", "our U-Net for synthetic anomalies"),
    ):
        value = report["methods"][name]["by"]["chosen"]["auroc"]["value"]
        assert f"{words} {value:.3f}" in usage
    encoder = report["methods"]["vgg16_autoencoder"]["by"]["chosen"]["auroc"]["value"]
    assert f"report B's autoencoder reaches {encoder:.3f}" in readme
    decision = (ROOT / "docs/decisions/0012-mirror.md").read_text()
    for name in ("anomaly_unet", "denoising_autoencoder", "vgg16_autoencoder"):
        assert f"{report['methods'][name]['by']['chosen']['auroc']['value']:.3f}" in decision
    assert f"raw file {report['facts']['mean intensity']['auroc']['value']:.3f}" in usage
    at = mirror["at_threshold"]
    assert f"{at['false_positive_rate']:.0%}".replace("%", " %") in card
    assert f"{at['true_positive_rate']:.0%}".replace("%", " %") in card
    spec = json.loads((ROOT / "models/anomaly/spec.json").read_text())
    assert spec["metrics"]["test"] == mirror


def test_scans_are_quoted_as_they_were_measured() -> None:
    report = json.loads((ROOT / "results/anomaly/scans.json").read_text())
    card = unwrapped("MODEL_CARD.md")
    for name, found in report["sources"].items():
        others = found["above_the_others_threshold"]
        assert f"| {name} | {found['scans']} | {found['above']:.2f} | {others:.2f} |" in card
    lesions = report["lesions"]
    assert f"| diameter | none | {' | '.join(lesions)} |" in card
    shares = " | ".join(f"{each['above']:.2f}" for each in lesions.values())
    assert f"| above | {report['above']:.2f} | {shares} |" in card
    areas = " | ".join(f"{each['auroc']:.2f}" for each in lesions.values())
    assert f"| AUROC | | {areas} |" in card
    assert f"threshold is that of {report['scans']} scans" in card
    spec = json.loads((ROOT / "models/anomaly/spec.json").read_text())
    assert spec["detection"]["scan_threshold"] == report["threshold"]
    assert spec["onnx_sha256"] == report["model"]["onnx"]


def scaling() -> str:
    return unwrapped("docs/scaling.md")


def mean_s(entry: str, stage: str) -> float:
    """Return a stage's mean seconds, end to end with skull."""
    entries = json.loads((BENCHMARKS / "whole.json").read_text())["entries"]
    samples = entries[entry]["samples"][f"{stage}_s"]
    return sum(samples) / len(samples)


def test_the_simulated_cohort_is_quoted_as_it_was_measured() -> None:
    begin, end = cohort_document.MARKERS
    quoted = read_text("docs/scaling.md").split(begin)[1].split(end)[0].strip()
    result = json.loads((BENCHMARKS / "cohort.json").read_text())
    assert quoted == cohort_document.cohort_text(result).strip()


def test_scaling_quotes_what_a_scan_takes_and_counts_ten_thousand_from_it() -> None:
    text = scaling()
    whole, skull = (mean_s("compact openvino fp32", s) for s in ("total", "skull_stripping"))
    network = mean_s("compact openvino fp32", "infer")
    assert f"takes {whole:.2f} s on two cores" in text
    assert f"skull stripping takes {skull:.2f} s" in text
    assert f"OpenVINO) {network:.2f} s" in text
    assert f"| {3600 / whole:.0f} | 3600 / {whole:.2f} s, whole.json |" in text
    assert f"that takes {skull:.2f} s of the two cores above" in text
    assert f"wants {skull:.0f} x N such machines" in text
    stripped, labelled = whole - skull, mean_s("atlas registration", "total")
    hours = [10_000 * seconds / 3600 for seconds in (whole, stripped, labelled)]
    assert f"10,000 x {whole:.2f} s / 3600 = {hours[0]:.0f} hours" in text
    assert f"so {hours[0] / 100:.1f} hours on 100 of them" in text
    assert f"without skull {stripped:.2f} s a scan, {hours[1]:.1f} hours on one" in text
    assert f"and {60 * hours[1] / 100:.1f} minutes on 100" in text
    labelling = f"take {labelled:.2f} s a scan: {hours[2]:.0f} hours on one"
    assert f"{labelling}, {hours[2] / 100:.1f}" in text


def test_scaling_quotes_the_load_as_it_was_measured() -> None:
    load = json.loads((BENCHMARKS / "load.json").read_text())["entries"]["3.3/s"]["facts"]
    overhead = json.loads((BENCHMARKS / "overhead.json").read_text())["entries"]
    rate, batches = load["throughput_per_s"], load["batch_sizes"]["runner-compact"]
    text = scaling()
    assert f"| {3600 * rate:,.0f} | {rate} a second" in text
    mean_batch = batches["scans"] / batches["batches"]
    assert f"answer {rate:.2f} a second in batches of {mean_batch:.2f} on average" in text
    found = statistics.median(overhead["in process"]["samples"]["scans_per_s"])
    assert f"and {found:.2f} one by one in process" in text


def test_the_size_of_the_image_is_quoted_as_measured() -> None:
    image = json.loads((ROOT / "results/container.json").read_text())["image"]
    text = unwrapped("docs/serving.md").split("## In a container")[1]
    large = [layer["bytes"] for layer in image["layers"] if layer["bytes"] > 30e6]
    assert len(large) >= 3
    for size in large:
        assert f"| {size / 1e6:.0f} |" in text
    assert f"{image['bytes'] / 1e6:.0f} MB with the smaller ones" in text


def test_a_gpu_is_described_by_the_figures_of_report_a() -> None:
    text = scaling()
    for model, (seconds, _) in REPORT_A.items():
        assert f"`{model}` alone" in text
        assert f"| {3600 / seconds:,.0f} | 3600 / {seconds} s, as report A states it |" in text
