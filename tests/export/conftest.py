"""A small network on the full grid, its checkpoint, scans, and the model published from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.networks import ANOMALY_PRESETS, build
from neurobento.spec import ModelSpec

METRICS = {"cohort": {"mean": 0.75}}


@dataclass(frozen=True)
class Published:
    """What `publish` was given and what it made."""

    checkpoint: Path
    scans: list[Path]
    folder: Path
    spec: ModelSpec


def small_network(seed: int = 0) -> Any:
    """The compact network with widths that cost next to nothing."""
    import torch

    from neurobento.networks.compact import Compact

    torch.manual_seed(seed)
    return Compact(widths=(8, 8), head_width=8).eval()


@pytest.fixture(scope="session")
def build_small() -> Iterator[None]:
    """While it lasts, the preset "compact" is the small network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "neurobento.networks.weights.build",
            lambda preset: build(preset) if preset in ANOMALY_PRESETS else small_network(),
        )
        yield


@pytest.fixture(scope="session")
def small() -> Callable[[int], Any]:
    """Builds the small network from a seed."""
    return small_network


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three images on the network grid: smooth, coarse and noisy."""
    folder = tmp_path_factory.mktemp("scans")
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (91, 122, 123)), indexing="ij")
    noise = np.random.default_rng(2)
    coarse = noise.random((12, 16, 16)).repeat(8, 0).repeat(8, 1).repeat(8, 2)[:91, :122, :123]
    images = [np.exp(-(x**2) - y**2 - z**2), coarse, noise.random((91, 122, 123))]
    paths = []
    for i, image in enumerate(images):
        path = folder / f"sub-{i}_image.nii.gz"
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), path)
        paths.append(path)
    return paths


@pytest.fixture(scope="session")
def published(
    tmp_path_factory: pytest.TempPathFactory, build_small: None, scans: list[Path]
) -> Published:
    """The small network exported, verified and moved into place, once for all tests."""
    from export.publish import publish
    from training.loop.checkpoint import Checkpoint, write_checkpoint

    folder = tmp_path_factory.mktemp("published") / "models" / "compact"
    checkpoint = tmp_path_factory.mktemp("run") / "best.pt"
    recipe, state = {"network": "compact", "seed": 7}, small_network().state_dict()
    values = Checkpoint(recipe, 120, 7200.0, 0.81236, 100, 1, {}, state, {}, {}, [])
    write_checkpoint(checkpoint, values)
    spec = publish(
        checkpoint,
        folder,
        name="compact",
        version="9.1.0",
        scans=scans,
        metrics=METRICS,
        licence="none to note",
    )
    return Published(checkpoint, scans, folder, spec)
