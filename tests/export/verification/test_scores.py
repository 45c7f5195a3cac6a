"""An anomaly model whose scores and error maps are inside its graph: every backend gives them."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from export.publish import publish
from export.verification.scores import LARGEST_DIFFERENCE, read_slices, verify_scores
from neurobento.backends import BackendConfig, open_backend
from neurobento.errors import ParityFailure, SpecMismatch
from neurobento.networks import build
from neurobento.networks.weights import load_network
from neurobento.registry import Model, open_model

pytestmark = pytest.mark.slow

WAYS = [("openvino", "fp32"), ("onnxruntime", "fp32"), ("pytorch", "fp32")]
REDUCTION = "mean of the largest 1 %"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three heads: an ellipse of smooth tissue each."""
    folder = tmp_path_factory.mktemp("pictures")
    rows, columns = np.mgrid[-1:1:150j, -1:1:130j]
    for seed in range(3):
        random = np.random.default_rng(seed)
        inside = (rows / 0.9) ** 2 + (columns / 0.7) ** 2 < 1
        tissue = 120 + 60 * np.cos(random.uniform(3, 9) * rows) * np.cos(5 * columns)
        Image.fromarray((inside * tissue).astype(np.uint8)).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def published(pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A network with random weights, exported and verified as a trained one would be."""
    torch.manual_seed(0)
    network: Any = build("anomaly_unet")
    network.reduction = REDUCTION
    folder = tmp_path_factory.mktemp("published")
    row = {"epoch": 1.0, "validation_loss": 0.5}
    values = {
        "format": 1,
        "recipe": {"network": "anomaly_unet"},
        "history": [row],
        "seconds": 1.0,
        "average": network.state_dict(),
        "detection": {"threshold": 0.5, "false_positive_rate": 0.1},
    }
    torch.save(values, folder / "best.pt")
    publish(
        folder / "best.pt",
        folder / "anomaly",
        name="anomaly",
        version="0.0.1",
        scans=pictures,
        metrics={},
        licence="",
    )
    return open_model(folder / "anomaly")


def test_the_spec_says_what_the_graph_takes_and_gives(published: Model) -> None:
    spec = published.spec
    assert (spec.task, spec.network, spec.classes) == ("anomaly", "anomaly_unet", 0)
    assert spec.input_shape == (1, 128, 128)
    assert {name: tensor.shape for name, tensor in spec.outputs.items()} == {
        "score": (),
        "error_map": (128, 128),
    }
    assert spec.verification["openvino fp32"]["passed"]
    assert spec.verification["onnxruntime fp32"]["passed"]
    assert spec.training["best_epoch"] == 1


@pytest.mark.parametrize(("backend", "precision"), WAYS)
def test_every_backend_gives_the_same_score(
    published: Model, pictures: list[Path], backend: str, precision: str
) -> None:
    images = read_slices(pictures)
    network: Any = load_network(published.folder / "weights.pt")
    with torch.inference_mode():
        scores, maps = (each.numpy() for each in network.detect(torch.from_numpy(images)))
    opened = open_backend(published, backend, device="cpu", precision=precision, threads=2)
    with contextlib.closing(opened):
        found = opened.run(images)
        singles = [opened.run(image[None])["score"][0] for image in images]
    assert found["score"].shape == (3,)
    assert np.abs(found["score"] - scores).max() <= LARGEST_DIFFERENCE
    assert np.abs(found["error_map"] - maps).max() <= LARGEST_DIFFERENCE
    assert np.array_equal(found["score"], singles)
    # The score is read off the map by the network's reduction.
    largest = np.sort(found["error_map"].reshape(3, -1), axis=1)[:, -round(0.01 * 128 * 128) :]
    np.testing.assert_allclose(found["score"], largest.mean(1), atol=1e-5)
    assert np.ptp(found["score"]) > 1e-6


def test_a_graph_with_other_weights_is_not_published(
    published: Model, pictures: list[Path]
) -> None:
    torch.manual_seed(1)
    other: Any = build("anomaly_unet").eval()
    with pytest.raises(ParityFailure, match="to agree with PyTorch"):
        verify_scores(
            other, published, read_slices(pictures), [BackendConfig("openvino", "cpu", "fp32")]
        )


def test_images_of_another_grid_are_refused(published: Model) -> None:
    opened = open_backend(published, "onnxruntime", device="cpu")
    with contextlib.closing(opened), pytest.raises(ValueError, match="1, 128, 128"):
        opened.run(np.zeros((1, 1, 91, 122, 123), np.float32))


def test_a_spec_of_another_grid_does_not_match(published: Model) -> None:
    spec = dataclasses.replace(published.spec, input_shape=(1, 91, 122, 123))
    with pytest.raises(SpecMismatch, match="input grid"):
        spec.require_match(published.onnx)
