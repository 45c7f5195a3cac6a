"""The comparison with ANTs' bias correction counts and writes what it should."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.inference import bias_correction
from benchmarks.inference.bias_correction import agreement, main, measure


def test_a_brain_agrees_with_itself(phantom: Any) -> None:
    found = agreement(phantom.image, phantom.image, phantom.image > 0)
    assert found == {
        "correlation": 1,
        "mean_relative_difference": 0,
        "max_relative_difference": 0,
        "max_relative_difference_without_common_factor": 0,
    }


def test_a_common_factor_is_told_from_another_shape(phantom: Any) -> None:
    brain = phantom.image > 0
    found = agreement(phantom.image * 1.5, phantom.image, brain)
    assert found["correlation"] == 1
    assert found["mean_relative_difference"] == pytest.approx(0.5)
    assert found["max_relative_difference_without_common_factor"] == pytest.approx(0, abs=1e-6)


def test_every_method_is_timed_in_every_round(
    phantom: Any, write_nifti: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def method(name: str) -> Any:
        def correct(array: Any, brain: Any, affine: Any) -> Any:
            calls.append(name)
            time.sleep(0.001)
            return array

        return correct

    monkeypatch.setattr(bias_correction, "METHODS", {n: method(n) for n in bias_correction.METHODS})
    path = write_nifti(phantom.image, phantom.affine)
    found = measure(path, phantom.image > 0, rounds=2)
    assert calls == ["ants_defaults", "ants_mask", "ours"] * 2
    lengths = {name: len(samples) for name, samples in found["seconds"].items()}
    assert lengths == {"ants_defaults": 2, "ants_mask": 2, "ours": 2}
    assert found["agreement_with_ants_mask"]["correlation"] == 1


def test_the_command_writes_raw_seconds_and_the_machine(
    phantom: Any, write_nifti: Callable[..., Path], tmp_path: Path
) -> None:
    path, output = write_nifti(phantom.image, phantom.affine), tmp_path / "new" / "result.json"
    assert main([str(path), "-o", str(output), "--threads", "1"]) == 0
    result = json.loads(output.read_text())
    scan = result["scans"]["scan"]
    assert scan["brain_voxels"] == int(np.sum(phantom.image > 0))
    assert scan["threads_1"]["agreement_with_ants_mask"]["correlation"] > 0.999
    assert [len(samples) for samples in scan["threads_1"]["seconds"].values()] == [1, 1, 1]
    assert result["environment"]["cores"] > 0
