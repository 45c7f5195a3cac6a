"""Fixtures of tiny training runs; see `tests.training.tiny`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neurobento.networks import ANOMALY_PRESETS, BRAIN_PRESETS, PRESETS, build

CURVES = ("parcellation.task.draw_dice", "brain.task.draw_dice", "anomaly.task.draw_curves")


@pytest.fixture
def drawn_curves() -> None:
    """Let tiny runs draw their curves, which takes longer than their training."""


@pytest.fixture
def tiny_networks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Let the presets be those of `tests.training.tiny`, and VGG16 have few channels.

    A validation draws no curves, unless the test asks for `drawn_curves`.
    """
    if "drawn_curves" not in request.fixturenames:
        for name in CURVES:
            monkeypatch.setattr(f"training.{name}", lambda history, path: None)
    from neurobento.networks import vgg16_autoencoder

    # fixtures of other folders replace it for as long as their session lasts
    monkeypatch.setattr("neurobento.networks.weights.build", build)
    for preset in ("unet", "compact", "atlas_map"):
        monkeypatch.setitem(PRESETS, preset, "tests.training.tiny")
    monkeypatch.setitem(BRAIN_PRESETS, "brain_finder", "tests.training.tiny")
    for preset in ANOMALY_PRESETS:
        monkeypatch.setitem(ANOMALY_PRESETS, preset, "tests.training.tiny")
    narrow = tuple((8,) * len(level) for level in vgg16_autoencoder.LEVELS)
    monkeypatch.setattr(vgg16_autoencoder, "LEVELS", narrow)
    monkeypatch.setattr(vgg16_autoencoder, "DECODER", (8,) * 5)


@pytest.fixture
def report_unet(tiny_networks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the preset "unet" be report A's, with narrow layers."""
    from tests.training import tiny

    monkeypatch.setattr(tiny, "unet", tiny.report_unet)


@pytest.fixture
def start(tiny_networks: None) -> Iterator[Callable[..., Any]]:
    """Starts runs as `parcellation_run` does; their event files are closed at the end."""
    from tests.training.tiny import parcellation_run

    runs: list[Any] = []

    def begin(*args: Any, **options: Any) -> Any:
        runs.append(parcellation_run(*args, **options))
        return runs[-1]

    yield begin
    for run in runs:
        run.log.close()


@pytest.fixture
def encoder(tiny_networks: None, tmp_path: Path) -> Path:
    """A file as torchvision's is: of VGG16's convolutions, and of its classifier."""
    import torch

    from neurobento.networks.vgg16_autoencoder import VGG16Autoencoder

    torch.manual_seed(99)
    features = {f"features.{k}": v for k, v in VGG16Autoencoder().features.state_dict().items()}
    path = tmp_path / "vgg16.pth"
    torch.save({**features, "classifier.0.weight": torch.ones(3, 3)}, path)
    return path
