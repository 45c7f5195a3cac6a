"""The command `neurobento models`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neurobento.cli.main import main
from tests.neurobento.anomaly.known_anomaly import write_known_model


def test_models_lists_the_models_of_a_folder(
    known_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--models", str(known_model.parent)]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split("\t")[:4] == ["name", "version", "task", "network"]
    assert row.split("\t")[:5] == ["regions", "0.0.1", "parcellation", "compact", "not measured"]


def test_models_says_how_good_a_model_is(
    known_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "regions"
    folder.mkdir()
    (folder / "model.onnx").write_bytes((known_model / "model.onnx").read_bytes())
    spec = json.loads((known_model / "spec.json").read_text())
    spec["metrics"] = {"first": {"mean": 0.85114}, "second": {"mean": 0.5}}
    (folder / "spec.json").write_text(json.dumps(spec))
    assert main(["models", "--models", str(tmp_path)]) == 0
    assert "\tDice 0.8511\t" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("metrics", "shown"),
    [({}, "not measured"), ({"test": {"auroc": {"value": 0.8749}}}, "AUROC 0.87")],
)
def test_models_lists_the_models_of_both_tasks(
    metrics: dict[str, Any],
    shown: str,
    known_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_known_model(tmp_path, metrics=metrics)
    (tmp_path / "regions").symlink_to(known_model)
    assert main(["models", "--models", str(tmp_path)]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["name", "version", "task", "network", "test", "size MB"]
    assert rows[1][:5] == ["anomaly", "0.0.1", "anomaly", "anomaly_unet", shown]
    assert rows[2][:5] == ["regions", "0.0.1", "parcellation", "compact", "not measured"]
    assert {len(row) for row in rows} == {6}
