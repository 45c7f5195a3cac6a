"""Pairs by a trained model: its labels of the scan, no positions, and nothing done twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import training.parcellation.distil
from neurobento.errors import ConfigError
from neurobento.imaging.geometry import Grid
from neurobento.preprocessing import PreparedScan
from tests.training.tiny import ATLAS_MAP, CPU, pair, small_atlas
from training.parcellation.dataset import load_pairs, open_pairs
from training.parcellation.distil import main
from training.parcellation.task import ParcellationTask


@pytest.fixture
def prepared(known_labels: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A fake of preprocessing, whose image the known model labels with `known_labels(3)`."""
    calls: list[str] = []

    def preprocess(scan: Any, preprocessing: str) -> PreparedScan:
        calls.append(preprocessing)
        image = (known_labels(3) / np.float32(116)).astype(np.float32)
        return PreparedScan(image, Grid(scan.shape, scan.voxel_to_ras, np.eye(4)), {})

    monkeypatch.setattr(training.parcellation.distil, "preprocess", preprocess)
    return calls


def test_a_pair_holds_the_models_labels_and_is_made_once(
    prepared: list[str], known_model: Path, known_labels: Any, write_nifti: Any, tmp_path: Path
) -> None:
    scan = write_nifti(np.arange(9240, dtype=np.float32).reshape(20, 21, 22), name="s1.nii.gz")
    folder = tmp_path / "pairs"
    arguments = [str(known_model), str(scan), "-o", str(folder), "--preprocessing", "stripped"]
    assert main(arguments) == 0
    (made,) = load_pairs(open_pairs(folder), ["s1"])
    assert np.array_equal(made.labels.numpy(), known_labels(3))
    assert bool(made.positions.isnan().all())
    record = json.loads((folder / "s1.json").read_text())
    assert record["teacher"]["name"] == "compact"
    assert main(arguments) == 0
    assert prepared == ["stripped"]
    (folder / "s1_labels.nii.gz").write_bytes(b"changed")
    assert main(arguments) == 0
    assert prepared == ["stripped", "stripped"]


def test_a_network_that_learns_positions_refuses_pairs_without(
    tiny_networks: None,
) -> None:
    pairs = [pair(1), replace(pair(2), positions=pair(2).positions * np.nan)]
    with pytest.raises(ConfigError, match="pairs with atlas positions"):
        ParcellationTask(ATLAS_MAP, pairs, pairs[:1], CPU, small_atlas())
