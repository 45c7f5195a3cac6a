"""The scan for newcomers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from neurobento.errors import ConfigError
from neurobento.imaging.scan import Scan, read_scan
from neurobento.sample import write_sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    path = tmp_path_factory.mktemp("sample") / "new" / "sample.nii.gz"
    write_sample(path)
    return read_scan(path)


def test_the_sample_passes_the_gate_with_voxels_of_1_mm(sample: Scan) -> None:
    assert sample.voxel_sizes_mm == pytest.approx((1, 1, 1))
    assert sample.axis_codes == "RAS"


def test_the_sample_covers_a_brain_and_no_skull(sample: Scan) -> None:
    """ICBM 152 brains are about 1.9 litres with cerebellum and fluid, and zero around."""
    litres = float((sample.array > 0).sum()) / 1e6
    assert 1.5 < litres < 2.2
    edges = [sample.array[0], sample.array[-1], sample.array[:, 0], sample.array[:, -1]]
    assert not any(edge.any() for edge in edges)


def test_the_brain_stands_where_mni_space_says(sample: Scan) -> None:
    """The anterior commissure is the origin; the brain reaches 60 to 80 mm to either side."""
    inside = np.argwhere(sample.array > 0)
    corners = (sample.voxel_to_ras @ np.c_[inside[[0, -1]], [1, 1]].T).T[:, 0]
    assert -85 < corners.min() < -60
    assert 60 < corners.max() < 85


def test_equal_calls_write_equal_voxels(sample: Scan, tmp_path: Path) -> None:
    write_sample(tmp_path / "again.nii")
    assert np.array_equal(read_scan(tmp_path / "again.nii").array, sample.array)


def test_without_nilearn_the_error_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The container has none."""
    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    with pytest.raises(ConfigError, match="pip install nilearn"):
        write_sample(tmp_path / "sample.nii")
    assert not list(tmp_path.iterdir())
