"""README and MODEL_CARD say what the result files say, and point at files that are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EVALUATION = ROOT / "results/evaluation/compact/evaluation.json"
LINK = re.compile(r"\]\(([^)#]+)\)")


LINKING = ["README.md", "MODEL_CARD.md", "CONTRIBUTING.md", "docs/serving.md", "docs/deployment.md"]


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
    assert f"raw file {report['facts']['mean intensity']['auroc']['value']:.3f}" in readme
    at = mirror["at_threshold"]
    assert f"{at['false_positive_rate']:.0%}".replace("%", " %") in card
    assert f"{at['true_positive_rate']:.0%}".replace("%", " %") in card
    spec = json.loads((ROOT / "models/anomaly/spec.json").read_text())
    assert spec["metrics"]["test"] == mirror
