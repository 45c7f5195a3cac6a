"""README and MODEL_CARD say what the result files say, and point at files that are there."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from benchmarks.cohort import document as cohort_document
from benchmarks.report.comparison import REPORT_A

ROOT = Path(__file__).parent.parent
EVALUATION = ROOT / "results/evaluation/compact/evaluation.json"
LINK = re.compile(r"\]\(([^)#]+)\)")


LINKING = [
    *("README.md", "MODEL_CARD.md", "CONTRIBUTING.md"),
    *("docs/serving.md", "docs/deployment.md", "docs/scaling.md"),
]


@pytest.mark.parametrize("document", LINKING)
def test_links_point_at_files_of_this_repository(document: str) -> None:
    file = ROOT / document
    targets = [t for t in LINK.findall(file.read_text()) if "://" not in t]
    assert targets or document == "CONTRIBUTING.md"
    missing = [target for target in targets if not (file.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("document", ["README.md", "MODEL_CARD.md"])
def test_dice_is_quoted_as_it_was_measured(document: str) -> None:
    text = (ROOT / document).read_text()
    for name, values in json.loads(EVALUATION.read_text())["summary"].items():
        sd = "n/a" if values["sd"] is None else f"{values['sd']:.4f}"
        quoted = f"{values['mean']:.4f} | {sd}"
        assert quoted in text, f"{document} does not quote {name} as measured: {quoted}"


def test_the_shipped_model_carries_the_measured_dice() -> None:
    spec = json.loads((ROOT / "models/compact/spec.json").read_text())
    evaluation = json.loads(EVALUATION.read_text())
    assert spec["metrics"] == evaluation["summary"]
    assert spec["checkpoint_sha256"] == evaluation["checkpoint_sha256"]


def test_nothing_left_to_fill_in() -> None:
    for document in ("README.md", "MODEL_CARD.md"):
        assert not re.search(r"@[A-Z]+@", (ROOT / document).read_text())


def test_the_independent_truth_is_quoted_as_it_was_measured() -> None:
    report = json.loads(max((ROOT / "results/evaluation").glob("*.json")).read_text())
    found = report["independent_truth"]["oasis_trt_20"]
    means = {maker: sum(d.values()) / len(d) for maker, d in found["dice"].items()}
    text = (ROOT / "MODEL_CARD.md").read_text()
    assert f"{means['compact']:.3f} against {means['registration']:.3f}" in text
    assert f"p = {found['against_registration']['compact']['p_text']} " in text
    oasis = report["networks"]["compact"]["groups"]["oasis_trt_20"]["summary"]
    assert f"Dice of {oasis['mean']:.4f} (SD {oasis['sd']:.4f})" in text


def test_every_network_is_quoted_as_it_was_measured() -> None:
    report = json.loads(max((ROOT / "results/evaluation").glob("*.json")).read_text())
    text = (ROOT / "MODEL_CARD.md").read_text()
    specs = [json.loads(p.read_text()) for p in (ROOT / "models").glob("*/spec.json")]
    names = {spec["name"] for spec in specs if spec["task"] == "parcellation"}
    assert set(report["networks"]) == names
    for name, network in report["networks"].items():
        for group in network["groups"].values():
            summary = group["summary"]
            sd = "" if summary["sd"] is None else f" ± {summary['sd']:.4f}"
            assert f"| {summary['mean']:.4f}{sd} |" in text, f"{name}: {summary}"


def test_the_report_is_on_the_models_that_ship() -> None:
    report = json.loads(max((ROOT / "results/evaluation").glob("*.json")).read_text())
    for name, network in report["networks"].items():
        spec = json.loads((ROOT / "models" / name / "spec.json").read_text())
        assert network["onnx_sha256"] == spec["onnx_sha256"]


def test_anomalies_are_quoted_as_they_were_measured() -> None:
    report = json.loads((ROOT / "results/anomaly/anomaly.json").read_text())
    card, readme = ((ROOT / name).read_text() for name in ("MODEL_CARD.md", "README.md"))
    figures = [method["by"]["chosen"] for method in report["methods"].values()]
    for found in (*figures, *report["facts"].values()):
        for key in ("auroc", "auprc", "tpr_at_10_fpr"):
            low, high = found[key]["interval"]
            assert f"| {found[key]['value']:.3f} ({low:.3f} to {high:.3f}) |" in card
    mirror = report["methods"]["mirror"]["by"]["chosen"]
    low, high = mirror["auroc"]["interval"]
    assert f"AUROC {mirror['auroc']['value']:.3f} ({low:.3f} to {high:.3f})" in readme
    components = report["methods"]["principal components"]["by"]["chosen"]
    assert f"components reach {components['auroc']['value']:.3f}" in readme
    for name, words in (
        ("vgg16_autoencoder", "report B's autoencoder reaches"),
        ("anomaly_unet", "our U-Net for synthetic anomalies"),
    ):
        value = report["methods"][name]["by"]["chosen"]["auroc"]["value"]
        assert f"{words} {value:.3f}" in readme
    decision = (ROOT / "docs/decisions/0012-mirror.md").read_text()
    for name in ("anomaly_unet", "denoising_autoencoder", "vgg16_autoencoder"):
        assert f"{report['methods'][name]['by']['chosen']['auroc']['value']:.3f}" in decision
    assert f"raw file {report['facts']['mean intensity']['auroc']['value']:.3f}" in readme
    at = mirror["at_threshold"]
    assert f"{at['false_positive_rate']:.0%}".replace("%", " %") in card
    assert f"{at['true_positive_rate']:.0%}".replace("%", " %") in card
    spec = json.loads((ROOT / "models/anomaly/spec.json").read_text())
    assert spec["metrics"]["test"] == mirror


def test_scans_are_quoted_as_they_were_measured() -> None:
    report = json.loads((ROOT / "results/anomaly/scans.json").read_text())
    card = (ROOT / "MODEL_CARD.md").read_text()
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


BENCHMARKS = ROOT / "benchmarks/results"


def scaling() -> str:
    return (ROOT / "docs/scaling.md").read_text()


def mean_s(entry: str, stage: str) -> float:
    """A stage's mean seconds, end to end with skull."""
    entries = json.loads((BENCHMARKS / "whole.json").read_text())["entries"]
    samples = entries[entry]["samples"][f"{stage}_s"]
    return sum(samples) / len(samples)


def test_the_simulated_cohort_is_told_as_it_was_measured() -> None:
    begin, end = cohort_document.MARKERS
    told = scaling().split(begin)[1].split(end)[0].strip()
    result = json.loads((BENCHMARKS / "cohort.json").read_text())
    assert told == cohort_document.cohort_text(result).strip()


def test_scaling_quotes_what_a_scan_takes_as_it_was_measured() -> None:
    text = scaling()
    whole, skull = (mean_s("compact openvino fp32", s) for s in ("total", "skull_stripping"))
    network = mean_s("compact openvino fp32", "infer")
    assert f"takes {whole:.2f} s on two cores" in text
    assert f"skull stripping takes {skull:.2f} s" in text
    assert f"OpenVINO) {network:.2f} s" in text
    assert f"| {3600 / whole:.0f} | 3600 / {whole:.2f} s, whole.json |" in text
    assert f"that takes {skull:.2f} s of the two cores above" in text
    assert f"wants {skull:.0f} x N such machines" in text


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


def test_scaling_counts_ten_thousand_scans_from_what_one_takes() -> None:
    text = " ".join(scaling().split())
    whole = mean_s("compact openvino fp32", "total")
    stripped = whole - mean_s("compact openvino fp32", "skull_stripping")
    labelled = mean_s("atlas registration", "total")
    hours = [10_000 * seconds / 3600 for seconds in (whole, stripped, labelled)]
    assert f"10,000 x {whole:.2f} s / 3600 = {hours[0]:.0f} hours" in text
    assert f"so {hours[0] / 100:.1f} hours on 100 of them" in text
    assert f"without skull {stripped:.2f} s a scan, {hours[1]:.1f} hours on one" in text
    assert f"and {60 * hours[1] / 100:.1f} minutes on 100" in text
    assert (
        f"take {labelled:.2f} s a scan: {hours[2]:.0f} hours on one, {hours[2] / 100:.1f}" in text
    )


def test_the_image_is_as_large_as_it_is_told() -> None:
    image = json.loads((ROOT / "results/container.json").read_text())["image"]
    told = (ROOT / "docs/serving.md").read_text().split("## In a container")[1]
    large = [layer["bytes"] for layer in image["layers"] if layer["bytes"] > 50e6]
    assert len(large) >= 3
    for size in large:
        assert f"| {size / 1e6:.0f} |" in told
    assert f"{image['bytes'] / 1e6:.0f} MB with the smaller ones" in told


def test_a_gpu_is_told_by_report_as_figures() -> None:
    told = (ROOT / "docs/scaling.md").read_text()
    for model, (seconds, _) in REPORT_A.items():
        assert f"`{model}` alone" in told
        assert f"| {3600 / seconds:,.0f} | 3600 / {seconds} s, as report A states it |" in told
