"""A small network on the full grid, its checkpoint, scans, and the model published from them."""

from __future__ import annotations

import hashlib
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


def digest_of(*arrays: Any) -> str:
    """A hash of arrays' bytes."""
    content = hashlib.sha256()
    for array in arrays:
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()


@pytest.fixture(scope="session", autouse=True)
def labels_computed_once() -> Iterator[None]:
    """Let the same network, or the same graph in the same backend, see the same images once.

    Inference on the network grid is what takes long in the verification of a model.
    """
    from export.verification import labels

    known: dict[tuple[str, ...], Any] = {}
    by_network, by_backend = labels._pytorch_labels, labels._backend_labels
    open_backend = labels.open_backend

    def pytorch_labels(network: Any, images: Any) -> Any:
        if not hasattr(network, "state_dict"):
            return by_network(network, images)
        weights = [weight.numpy() for weight in network.state_dict().values()]
        key = (repr(network), digest_of(*weights), digest_of(images))
        if key not in known:
            known[key] = by_network(network, images)
        return known[key].copy()

    def backend_labels(config: Any, model: Any, images: Any) -> Any:
        if labels.open_backend is not open_backend:
            return by_backend(config, model, images)
        graphs = [np.frombuffer(file.read_bytes(), "u1") for file in model.folder.glob("*.onnx")]
        key = (repr(config), digest_of(*graphs), digest_of(images))
        if key not in known:
            known[key] = by_backend(config, model, images)
        return known[key].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels, "_pytorch_labels", pytorch_labels)
        patch.setattr(labels, "_backend_labels", backend_labels)
        yield


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


@pytest.fixture(scope="session")
def network_labels(published: Published) -> Any:
    """The labels of the published network for its scans, in PyTorch."""
    from export.verification import labels
    from neurobento.networks.weights import load_network

    network = load_network(published.folder / "weights.pt")
    return labels._pytorch_labels(network, labels.read_images(published.scans))
