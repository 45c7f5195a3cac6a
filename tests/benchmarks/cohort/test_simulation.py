"""Simulated scans are tiny and differ; the model returns their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.cohort.simulation import write_model, write_scan
from neurobento.backends import open_backend
from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.imaging.scan import read_scan
from neurobento.registry import open_model


def test_scans_are_tiny_and_no_two_are_alike(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_scan(tmp_path / f"{seed}.nii.gz", seed)
    one, other = (read_scan(tmp_path / f"{seed}.nii.gz") for seed in (1, 2))
    assert one.shape == NETWORK_SHAPE
    assert not np.array_equal(one.array, other.array)
    assert (tmp_path / "1.nii.gz").stat().st_size < 50_000


def test_the_model_gives_the_label_that_an_intensity_stands_for(tmp_path: Path) -> None:
    write_model(tmp_path / "rounding")
    write_scan(tmp_path / "scan.nii.gz", 3)
    array = read_scan(tmp_path / "scan.nii.gz").array
    labels = open_backend(open_model(tmp_path / "rounding"), threads=1).infer(array[None, None])[0]
    assert np.array_equal(labels, np.rint(array * 116).astype(np.uint8))
    assert labels.max() == 116
