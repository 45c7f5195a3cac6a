"""A map network's positions and labels, read on other grids than its own."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine, from_matvec

from neurobento.errors import ConfigError
from neurobento.imaging.geometry import Grid
from neurobento.networks.atlas_map import AtlasMap
from neurobento.preprocessing import PreparedScan
from tests.training import tiny
from training.parcellation import map_teacher
from training.parcellation.map_teacher import MapTeacher, PositionField, open_teacher

FIELD = from_matvec(nib.eulerangles.euler2mat(0.1, 0.2, -0.1) * 6, [-20.0, 10.0, -30.0])
TURN = np.array([[0.9, 0.1, 0], [-0.1, 1.1, 0.05], [0, 0.02, 0.95]])
GRIDS = {
    "finer": from_matvec(np.diag([2.0, 2.0, 2.0]), [-18.0, 12.0, -25.0]),
    "beyond": from_matvec(np.diag([-9.0, 9.0, 9.0]), [60.0, -50.0, -80.0]),
    "tilted": from_matvec(nib.eulerangles.euler2mat(0.4, 0, 0.2) * 3, [-15.0, 5.0, -20.0]),
}


def world(affine: Any, shape: tuple[int, ...]) -> Any:
    return apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def affine_field() -> PositionField:
    return PositionField(world(FIELD, (7, 8, 9)) @ TURN.T + [1.0, 2.0, 3.0], FIELD)


@pytest.mark.parametrize("name", GRIDS)
def test_an_affine_map_is_the_same_on_any_grid_and_goes_on_beyond(name: str) -> None:
    found = affine_field().on_grid(GRIDS[name], (10, 11, 12))
    expected = world(GRIDS[name], (10, 11, 12)) @ TURN.T + [1.0, 2.0, 3.0]
    assert np.moveaxis(found, 0, -1) == pytest.approx(expected, abs=1e-6)


def test_a_bent_map_is_itself_on_its_own_grid_and_linear_between() -> None:
    random = np.random.default_rng(0)
    field = affine_field()
    bent = PositionField(field.positions + random.normal(0, 1, field.positions.shape), FIELD)
    own = np.moveaxis(bent.on_grid(FIELD, (7, 8, 9)), 0, -1)
    assert own == pytest.approx(bent.positions, abs=1e-6)
    half = FIELD.copy()
    half[:3, 3] += FIELD[:3, 0] / 2
    between = np.moveaxis(bent.on_grid(half, (6, 8, 9)), 0, -1)
    assert between == pytest.approx((bent.positions[:-1] + bent.positions[1:]) / 2, abs=1e-6)


@pytest.fixture
def network(tiny_networks: None) -> AtlasMap:
    """A tiny map network that knows an atlas; its regions lie where the atlas's do."""
    atlas = tiny.small_atlas()
    made = tiny.atlas_map().eval()
    affine = torch.from_numpy(from_matvec(np.diag([2.0, 2.0, 2.0]), [-30.0, -40.0, -20.0]))
    made.take_atlas(torch.from_numpy(atlas.labels), torch.from_numpy(atlas.brain), affine)
    return made


@pytest.fixture
def image() -> Any:
    return tiny.pair(1).image.float().numpy()[0] / 255


def fake_preprocess(image: Any, calls: list[Any]) -> Callable[..., PreparedScan]:
    def preprocess(scan: Any, preprocessing: str, *, version: int) -> PreparedScan:
        calls.append((scan, preprocessing, version))
        grid = Grid((5, 5, 5), np.eye(4), GRIDS["tilted"], image.shape)
        return PreparedScan(image, grid, {})

    return preprocess


def test_on_the_networks_own_grid_the_labels_are_the_networks(
    network: AtlasMap, image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions are interpolated otherwise near the image's end, where no block follows."""
    calls: list[Any] = []
    monkeypatch.setattr(map_teacher, "preprocess", fake_preprocess(image, calls))
    teacher = MapTeacher(network, 1)
    scan: Any = "the scan"
    field = teacher.read(scan, "stripped")
    assert calls == [("the scan", "stripped", 1)]
    labels = teacher.labels(field.on_grid(GRIDS["tilted"], image.shape))
    with torch.inference_mode():
        expected = network.labels(torch.from_numpy(image[None, None]))[0].numpy()
    assert labels.dtype == np.uint8
    middle = (slice(4, -4),) * 3
    assert len(np.unique(expected[middle])) > 20
    assert (labels == expected)[middle].mean() > 0.97


def test_labels_at_the_atlass_own_voxels_are_the_atlass(network: AtlasMap) -> None:
    table = network.atlas_labels.numpy()
    own = np.moveaxis(world(network.atlas_voxel_to_ras.numpy(), table.shape), -1, 0)
    teacher = MapTeacher(network, 1)
    assert np.array_equal(teacher.labels(own), table)
    # beyond its border the atlas is background, as its border is
    assert not teacher.labels(own + 1e4).any()


def test_another_network_is_refused_by_name(
    network: AtlasMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SimpleNamespace(network="unet", preprocessing_version=2)
    monkeypatch.setattr(map_teacher, "open_model", lambda path: SimpleNamespace(spec=spec))
    monkeypatch.setattr(map_teacher, "open_weights", lambda model: "weights")
    networks = [tiny.unet(), network]
    monkeypatch.setattr(map_teacher, "load_network", lambda weights: networks.pop(0))
    with pytest.raises(ConfigError, match="found unet"):
        open_teacher("models/of-another-network")
    teacher = open_teacher("models/of-a-map-network")
    assert (teacher.network, teacher.version) == (network, 2)
    assert open_teacher("models/of-a-map-network") is teacher
