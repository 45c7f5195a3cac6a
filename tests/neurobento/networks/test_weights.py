"""Weights as they are shipped: convolutions rounded to half precision, all else as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurobento.networks.atlas_map import AtlasMap
from neurobento.networks.compact import Compact
from neurobento.networks.weights import load_network, read_values, write_weights

SHAPE, BRAIN = (19, 26, 21), (21, 27, 23)


def small(preset: str) -> nn.Module:
    compact = Compact((8, 8, 8), head_width=8, shape=SHAPE)
    return AtlasMap(compact, (8, 8), brain_shape=BRAIN, shape=SHAPE) if "map" in preset else compact


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurobento.networks.weights.build", small)


@pytest.fixture(params=["compact", "atlas_map"])
def values(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A checkpoint's; of the tables of the map network's atlas each has other numbers."""
    torch.manual_seed(0)
    state = small(request.param).state_dict()
    random = torch.Generator().manual_seed(1)
    for name, table in state.items():
        if name.startswith("atlas_"):
            drawn = torch.rand(table.shape, generator=random, dtype=torch.float64)
            state[name] = (100 * drawn).to(table.dtype)
    return {
        "recipe": {"network": request.param, "data": {"train": ("a/*",)}},
        "step": 120,
        "seconds": 7.5,
        "best_dice": 0.8125,
        "best_step": 100,
        "stale": 2,
        "network": {name: 2 * weight for name, weight in state.items()},
        "average": state,
        "optimiser": {"state": {0: {"exp_avg": torch.ones(5)}}},
        "scaler": {},
        "history": [{"step": 4.0, "loss": 1.25}],
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pt"


def is_convolution(name: str, weight: Tensor) -> bool:
    """The atlas's tables have as many axes, but are no float32."""
    return name.endswith(".weight") and weight.dim() == 5


def rounded(average: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: weight.half().float() if is_convolution(name, weight) else weight
        for name, weight in average.items()
    }


def assert_bit_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [k for k in first if first[k].dtype != second[k].dtype] == []
    assert [k for k in first if not torch.equal(first[k], second[k])] == []


def test_convolutions_are_written_in_half_precision_and_all_else_as_it_was(
    values: dict[str, Any], path: Path
) -> None:
    """What only a run needs is left out; what is written again is the same."""
    average, keys = {n: w.clone() for n, w in values["average"].items()}, list(values)
    write_weights(values, path)
    assert list(values) == keys
    assert_bit_equal(values["average"], average)
    first = read_values(path)
    write_weights(first, path)
    again = read_values(path)
    written = first.pop("average")
    assert_bit_equal(again.pop("average"), written)
    kept = ("recipe", "step", "seconds", "best_dice", "best_step")
    assert again == first == {key: values[key] for key in kept}
    halves = {name for name, weight in written.items() if weight.dtype == torch.float16}
    assert halves == {name for name, weight in average.items() if is_convolution(name, weight)}
    assert len(halves) > 5
    assert_bit_equal(written, {n: w.half() if n in halves else w for n, w in average.items()})
    assert any(not torch.equal(written[name].float(), average[name]) for name in halves)


def test_the_network_computes_in_single_precision_with_the_rounded_weights(
    values: dict[str, Any], path: Path
) -> None:
    """Rounding moves an ordinary number by less than a 2048th; below 2^-14 it has fewer digits."""
    write_weights(values, path)
    network = load_network(path)
    after = dict(network.state_dict())
    assert_bit_equal(after, rounded(values["average"]))
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert not any(module.training for module in network.modules())
    for name, before in values["average"].items():
        gap = (after[name].double() - before.double()).abs()
        assert (gap <= before.double().abs() / 2048 + 2.0**-25).all()
