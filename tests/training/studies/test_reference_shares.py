"""The table of region shares that training writes and volumetry reads."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import training.studies.reference_shares
from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.labels import aal116
from neurobento.parcellation import volumetry
from training.parcellation.dataset import POSITION_SHAPE, Pair
from training.studies.reference_shares import main, shares_percent, shares_tsv


def pair(labels: Any) -> Pair:
    values = torch.from_numpy(np.asarray(labels, np.uint8)).reshape(-1, 1, 1)
    return Pair("s", values[None], values, np.eye(4), torch.zeros(3, 1, 1, 1))


def random_pairs(count: int) -> list[Pair]:
    random = np.random.default_rng(0)
    return [pair(random.integers(0, 117, 5000)) for _ in range(count)]


def table(text: str) -> dict[int, dict[str, str]]:
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return {int(row["class_index"]): row for row in rows}


def test_a_share_is_of_the_labelled_voxels_and_a_scans_shares_add_up_to_100() -> None:
    shares = shares_percent([pair([0] * 50 + [1] * 3 + [116]), pair([2] * 4)])
    assert shares.shape == (2, 117)
    assert shares[0, [0, 1, 2, 116]].tolist() == [0, 75, 0, 25]
    assert shares[1, [0, 1, 2]].tolist() == [0, 0, 100]
    np.testing.assert_allclose(shares_percent(random_pairs(3)).sum(axis=1), 100)


def test_the_table_has_mean_and_sample_sd_of_every_region() -> None:
    shares = shares_percent(random_pairs(4))
    rows = table(shares_tsv(shares))
    assert [row["name"] for row in rows.values()] == [region.name for region in aal116()]
    for index, row in rows.items():
        values = shares[:, index].tolist()
        assert float(row["mean_percent"]) == pytest.approx(statistics.mean(values), abs=1e-5)
        assert float(row["sd_percent"]) == pytest.approx(statistics.stdev(values), abs=1e-5)


def test_the_command_writes_what_volumetry_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the training scans alone."""
    x, y, z = np.indices(NETWORK_SHAPE, sparse=True)
    for name, shift in (("s1", 0), ("s2", 40), ("v1", 80)):
        labels = ((x + y + z // 2) // 3 % 60 + shift % 57).astype(np.uint8)
        arrays = {
            "image": np.zeros(NETWORK_SHAPE, np.float32),
            "labels": labels,
            "positions": np.zeros(POSITION_SHAPE, np.float32),
        }
        for kind, array in arrays.items():
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}_{kind}.nii.gz")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'network = "compact"\n[data]\ntrain = ["s*"]\nvalidation = ["v*"]\n'
        "[optimisation]\nsteps = 1\n"
    )
    (tmp_path / "data").mkdir()
    package = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(training.studies.reference_shares, "neurobento", package)
    assert main([str(recipe), "--pairs", str(tmp_path)]) == 0
    monkeypatch.setattr(volumetry.resources, "files", lambda _: tmp_path)
    read = volumetry._reference_shares.__wrapped__()
    expected = shares_percent(
        [pair(np.asarray(nib.load(tmp_path / f"{n}_labels.nii.gz").dataobj)) for n in ("s1", "s2")]
    )
    assert list(read) == list(range(1, 117))
    for index, (mean, sd) in read.items():
        values = expected[:, index].tolist()
        assert mean == pytest.approx(statistics.mean(values), abs=1e-5)
        assert sd == pytest.approx(statistics.stdev(values), abs=1e-5)
