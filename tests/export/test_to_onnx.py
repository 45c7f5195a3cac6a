"""The command checks its options and finds the metrics of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from export.to_onnx import _metrics, main
from neurobento.errors import ConfigError

pytestmark = pytest.mark.slow


def test_a_checkpoint_needs_a_name_and_an_output(
    published: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(published.checkpoint), "--scans", *map(str, published.scans)])
    assert "--name and --output" in capsys.readouterr().err


def test_metrics_of_the_checkpoints_own_network_are_taken(tmp_path: Path) -> None:
    checkpoint, report = tmp_path / "best.pt", tmp_path / "anomaly.json"
    torch.save({"format": 1, "recipe": {"network": "mirror"}}, checkpoint)
    methods = {name: {"by": {"chosen": {"auroc": name}}} for name in ("mirror", "others")}
    report.write_text(json.dumps({"methods": methods}))
    assert _metrics(report, checkpoint) == {"test": {"auroc": "mirror"}}
    report.write_text(json.dumps({"methods": {"others": {}}}))
    with pytest.raises(ConfigError, match="metrics of mirror; found metrics of others"):
        _metrics(report, checkpoint)
    report.write_text(json.dumps({"summary": {"ds": 1}}))
    assert _metrics(report, checkpoint) == {"ds": 1}
