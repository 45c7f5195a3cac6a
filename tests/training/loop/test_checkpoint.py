"""Checkpoints come back as they were written, whole or not at all, and run no code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neurobento.errors import ConfigError
from neurobento.networks.weights import CHECKPOINT_FORMAT, load_network, read_values
from training.loop.checkpoint import Checkpoint, read_checkpoint, write_checkpoint


def tiny_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv3d(1, 2, 3), nn.Dropout())


def checkpoint(step: int = 5) -> Checkpoint:
    network, average = tiny_network(1), tiny_network(2)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.ones(1, 1, 3, 3, 3)).sum().backward()
    optimiser.step()
    return Checkpoint(
        recipe={"network": "compact", "data": {"train": ("a/*", "b"), "test": {"x": ("c",)}}},
        step=step,
        seconds=1.5,
        best=0.75,
        best_step=4,
        stale=1,
        network=network.state_dict(),
        average=average.state_dict(),
        optimiser=optimiser.state_dict(),
        scaler={},
        history=[{"step": 4.0, "loss": 1.25}],
    )


def same(a: Any, b: Any) -> bool:
    """Equal through and through, tensors bit by bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last.pt"


def test_a_checkpoint_survives_its_file_which_loads_weights_only(path: Path) -> None:
    write_checkpoint(path, checkpoint())
    assert same(read_checkpoint(path).__dict__, checkpoint().__dict__)
    assert torch.load(path, weights_only=True)["format"] == CHECKPOINT_FORMAT == 1


@pytest.mark.parametrize("metric", ["dice", "loss"])
def test_the_best_value_is_kept_under_its_metrics_name(path: Path, metric: str) -> None:
    write_checkpoint(path, checkpoint(), metric)
    assert read_values(path)[f"best_{metric}"] == 0.75
    assert read_checkpoint(path, metric).best == 0.75
    other = {"dice": "loss", "loss": "dice"}[metric]
    with pytest.raises(ConfigError, match="the last checkpoint of a run of this task"):
        read_checkpoint(path, other)


def test_writing_replaces_and_leaves_nothing_beside_it(path: Path) -> None:
    write_checkpoint(path, checkpoint(1))
    write_checkpoint(path, checkpoint(2))
    assert read_checkpoint(path).step == 2
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_half_way_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(path, checkpoint(1))

    def full_disk(values: Any, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_checkpoint(path, checkpoint(2))
    assert read_checkpoint(path).step == 1


class Payload:
    """Makes a folder when unpickled the careless way."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def save_pickle(values: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(values, protocol=2))


@pytest.mark.parametrize("save", [torch.save, save_pickle])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    save: Callable[[Any, Path], None], path: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    save({"format": CHECKPOINT_FORMAT, "network": Payload(made)}, path)
    with pytest.raises(ConfigError, match="a checkpoint of format 1") as caught:
        read_values(path)
    assert caught.value.subject == str(path)
    assert not made.exists()
    with suppress(RuntimeError, pickle.UnpicklingError):
        torch.load(path, weights_only=False)
    assert made.exists(), "the payload is live, so its refusal means something"


@pytest.mark.parametrize("values", [{}, {"format": 2}, {"format": None}, [1], torch.ones(2)])
def test_another_format_is_refused(values: Any, path: Path) -> None:
    torch.save(values, path)
    with pytest.raises(ConfigError, match="a checkpoint of format 1"):
        read_values(path)


@pytest.mark.parametrize("data", [b"", b"network = 3", b"PK\x03\x04", bytes(100)])
def test_a_file_of_another_kind_is_refused(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="a checkpoint of format 1"):
        read_values(path)


def test_a_truncated_checkpoint_is_refused(path: Path) -> None:
    write_checkpoint(path, checkpoint())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ConfigError):
        read_checkpoint(path)


def test_the_network_to_use_has_the_averaged_weights_and_is_in_evaluation_mode(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def build(preset: str) -> nn.Module:
        built.append(preset)
        return tiny_network(3)

    monkeypatch.setattr("neurobento.networks.weights.build", build)
    write_checkpoint(path, checkpoint())
    network = load_network(path)
    assert built == ["compact"]
    assert same(dict(network.state_dict()), dict(tiny_network(2).state_dict()))
    assert not any(module.training for module in network.modules())
