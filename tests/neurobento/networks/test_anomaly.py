"""Laws of the networks for anomalies, with few channels: error maps, scores, what travels along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neurobento.networks.vgg16_autoencoder
import neurobento.networks.weights
from neurobento.errors import ConfigError
from neurobento.networks import ANOMALY_PRESETS, PRESETS, build
from neurobento.networks.anomaly import REDUCTIONS, AnomalyNetwork
from neurobento.networks.anomaly_unet import AnomalyUNet
from neurobento.networks.denoising_autoencoder import SMOOTHING, DenoisingAutoencoder
from neurobento.networks.vgg16_autoencoder import VGG16Autoencoder
from neurobento.networks.weights import load_network, read_values, write_weights

PIXELS = 128 * 128
WIDTHS = (4, 4, 4, 4, 4, 4)
EACH = pytest.mark.parametrize("preset", ANOMALY_PRESETS)
ALL = pytest.mark.parametrize("reduction", REDUCTIONS)


def narrow(preset: str) -> Any:
    """With other weights and other norms each time."""
    if preset == "vgg16_autoencoder":
        return VGG16Autoencoder().eval()
    kind = AnomalyUNet if preset == "anomaly_unet" else DenoisingAutoencoder
    network = kind(WIDTHS).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
    return network


@pytest.fixture(autouse=True)
def narrow_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = neurobento.networks.vgg16_autoencoder
    monkeypatch.setattr(module, "LEVELS", tuple((8,) * len(level) for level in module.LEVELS))
    monkeypatch.setattr(module, "DECODER", (8,) * 5)
    monkeypatch.setattr(neurobento.networks.weights, "build", narrow)


def images(count: int) -> Tensor:
    return torch.rand((count, 1, 128, 128), generator=torch.Generator().manual_seed(1))


# --- presets ---


@EACH
def test_each_preset_is_a_network_for_anomalies_of_its_name(preset: str) -> None:
    network = build(preset)
    assert isinstance(network, AnomalyNetwork)
    assert type(network).__name__.lower() == preset.replace("_", "")
    assert preset not in PRESETS


# --- scores ---


@ALL
def test_a_score_is_of_each_map_alone_and_of_what_there_is_but_not_of_where(reduction: str) -> None:
    reduce, maps = REDUCTIONS[reduction], images(3).flatten(1)
    together = reduce(maps)
    assert together.shape == (3,)
    torch.testing.assert_close(together, torch.cat([reduce(each[None]) for each in maps]))
    reduce, maps = REDUCTIONS[reduction], images(2).flatten(1)
    moved = maps[:, torch.randperm(PIXELS)]
    torch.testing.assert_close(reduce(moved), reduce(maps))


def test_scores_of_a_map_with_one_percent_of_ones() -> None:
    values = torch.zeros(1, PIXELS)
    values[0, ::99][:164] = 1
    assert values.sum() == 164
    scores = {name: float(reduce(values)) for name, reduce in REDUCTIONS.items()}
    assert scores == pytest.approx(
        {
            "mean": 164 / PIXELS,
            "root mean square": (164 / PIXELS) ** 0.5,
            "mean of the largest 10 %": 164 / 1638,
            "mean of the largest 5 %": 164 / 819,
            "mean of the largest 1 %": 1.0,
            "maximum": 1.0,
        },
        rel=1e-5,
    )


@ALL
def test_each_reduction_is_state_and_gives_the_score_beside_the_error_map(reduction: str) -> None:
    network = narrow("anomaly_unet")
    network.reduction = reduction
    with torch.inference_mode():
        scores, errors = network.detect(images(2))
        assert torch.equal(errors, network.error_map(images(2)))
    torch.testing.assert_close(scores, REDUCTIONS[reduction](errors.flatten(1)))
    first, second = AnomalyNetwork(), AnomalyNetwork()
    first.reduction = reduction
    second.load_state_dict(first.state_dict())
    assert second.reduction == reduction


# --- error maps ---


@EACH
@torch.inference_mode()
def test_error_maps_are_positive_and_those_of_a_batch_equal_those_of_its_slices(
    preset: str,
) -> None:
    errors = narrow(preset).error_map(images(2))
    assert (errors.shape, errors.dtype) == ((2, 128, 128), torch.float32)
    assert errors.min() >= 0 and errors.std() > 0
    network = narrow(preset)
    single = torch.cat([network.error_map(image[None]) for image in images(3)])
    torch.testing.assert_close(network.error_map(images(3)), single, rtol=1e-4, atol=1e-5)
    with_channel = (2, 1, 128, 128)
    expected = (2, 128, 128) if network.gives_logits else with_channel
    assert network(images(2)).shape == expected
    assert network.gives_logits == (preset == "anomaly_unet")


@torch.inference_mode()
def test_the_unets_errors_are_probabilities_and_those_of_the_mirror_image_mirrored() -> None:
    network = narrow("anomaly_unet")
    errors = network.error_map(images(2))
    assert errors.max() <= 1
    mirrored = network.error_map(images(2).flip(-1))
    torch.testing.assert_close(mirrored.flip(-1), errors)
    assert (network(images(2)).sigmoid() - errors).abs().max() > 1e-4, "no mean of two"


@torch.inference_mode()
def test_the_vgg16_autoencoders_errors_are_what_it_does_not_make() -> None:
    network = narrow("vgg16_autoencoder")
    made = network(images(2))
    assert made.min() >= 0 and made.max() <= 1
    assert torch.equal(network.error_map(images(2)), (images(2) - made).abs()[:, 0])


@torch.inference_mode()
def test_the_denoising_networks_errors_are_smoothed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that takes everything off: the image, smoothed; of one that takes nothing: zero."""
    network, image = narrow("denoising_autoencoder"), images(2)
    monkeypatch.setattr(network, "forward", torch.zeros_like)
    assert SMOOTHING == 5
    means = F.unfold(F.pad(image, (2, 2, 2, 2)), 5).mean(1).reshape(2, 128, 128)
    torch.testing.assert_close(network.error_map(image), means)
    monkeypatch.setattr(network, "forward", torch.clone)
    assert not network.error_map(image).any()


# --- what travels with the weights ---


@EACH
def test_the_reduction_travels_with_the_weights(preset: str) -> None:
    first, second = narrow(preset), narrow(preset)
    first.reduction = "maximum"
    second.load_state_dict(first.state_dict())
    assert second.reduction == "maximum"
    with torch.inference_mode():
        assert torch.equal(second.detect(images(1))[0], first.detect(images(1))[0])


def test_weights_with_an_unknown_reduction_are_refused(tmp_path: Path) -> None:
    network = narrow("anomaly_unet")
    unknown = {"_extra_state": {"reduction": "median"}}
    with pytest.raises(KeyError, match="median"):
        network.load_state_dict(network.state_dict() | unknown)
    assert network.reduction == "mean"
    written("anomaly_unet", tmp_path / "best.pt")
    values = read_values(tmp_path / "best.pt")
    values["average"] |= unknown
    write_weights(values, tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match="weights of the network as it is now"):
        load_network(tmp_path / "weights.pt")


def written(preset: str, path: Path) -> Any:
    """A network whose weights are in a file as `training.anomaly.train` leaves them."""
    network = narrow(preset)
    network.reduction = "maximum"
    values = {
        "recipe": {"network": preset, "objective": "synthetic", "encoder": "none"},
        "history": [{"epoch": 1.0, "loss": 0.5}],
        "seconds": 7.5,
        "average": network.state_dict(),
    }
    torch.save({"format": 1, **values}, path)
    return network


@EACH
def test_weights_of_a_run_and_shipped_weights_load_with_the_reduction(
    preset: str, tmp_path: Path
) -> None:
    """Those that are shipped are rounded."""
    network = written(preset, tmp_path / "best.pt")
    loaded: Any = load_network(tmp_path / "best.pt")
    assert loaded.reduction == "maximum" and not loaded.training
    with torch.inference_mode():
        scores, errors = network.detect(images(2))
        assert all(map(torch.equal, loaded.detect(images(2)), (scores, errors)))
    write_weights(read_values(tmp_path / "best.pt"), tmp_path / "weights.pt")
    shipped = read_values(tmp_path / "weights.pt")
    assert set(shipped) == {"recipe", "seconds", "average"}
    halves = {k for k, v in shipped["average"].items() if getattr(v, "dtype", 0) == torch.float16}
    assert halves == {k for k, v in network.named_parameters() if v.dim() == 4}
    loaded = load_network(tmp_path / "weights.pt")
    assert loaded.reduction == "maximum"
    for name, value in loaded.named_parameters():
        before = network.get_parameter(name)
        assert torch.equal(value, before.half().float() if name in halves else before)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.error_map(images(2)), errors, rtol=0.02, atol=0.005)
