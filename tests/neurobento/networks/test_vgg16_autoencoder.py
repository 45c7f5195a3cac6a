"""Report B's network: VGG16's layers, named as torchvision's, and where weights come from."""

from __future__ import annotations

import http.client
import io
import pickle
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurobento.networks.vgg16_autoencoder
from neurobento.errors import ConfigError
from neurobento.networks.vgg16_autoencoder import (
    IMAGENET_URL,
    VGG16Autoencoder,
    read_vgg16_weights,
    vgg16_autoencoder,
)

WIDTHS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
CONVOLUTIONS = dict(zip(PLACES, zip(WIDTHS[1:], WIDTHS, strict=False), strict=True))
"""torchvision's: place in `features` -> channels out and in."""

FILE_NAME = "vgg16-397923af.pth"
DOWNLOAD_IT = f"Download {IMAGENET_URL} and give that file"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = neurobento.networks.vgg16_autoencoder
    monkeypatch.setattr(module, "LEVELS", tuple((8,) * len(level) for level in module.LEVELS))
    monkeypatch.setattr(module, "DECODER", (8,) * 5)


def torchvisions(seed: int = 0) -> dict[str, Tensor]:
    """What a file of torchvision's holds, the numbers another each time."""
    torch.manual_seed(seed)
    features = VGG16Autoencoder().features.state_dict()
    named = {f"features.{name}": value for name, value in features.items()}
    return {**named, "classifier.0.weight": torch.ones(8, 8), "classifier.0.bias": torch.ones(8)}


def assert_features_of(found: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    named = {f"features.{name}": value for name, value in found.items()}
    expected = {name for name in weights if name.startswith("features.")}
    assert set(named) == expected and len(expected) == 26
    assert [name for name in expected if not torch.equal(named[name], weights[name])] == []


# --- layers ---


@torch.inference_mode()
def test_it_is_vgg16_layer_for_layer_and_makes_slices() -> None:
    network = vgg16_autoencoder().eval()
    state = network.features.state_dict()
    expected = {f"{i}.weight": (*channels, 3, 3) for i, channels in CONVOLUTIONS.items()}
    expected |= {f"{i}.bias": channels[:1] for i, channels in CONVOLUTIONS.items()}
    assert {name: tuple(value.shape) for name, value in state.items()} == expected
    assert {name for name in network.state_dict() if name.startswith("features.")} == {
        f"features.{name}" for name in expected
    }
    kinds = [type(layer) for layer in network.features]
    convolutions = [i for i, kind in enumerate(kinds) if kind is nn.Conv2d]
    pools = [i for i, kind in enumerate(kinds) if kind is nn.MaxPool2d]
    assert convolutions == list(CONVOLUTIONS) and pools == [4, 9, 16, 23, 30]
    assert kinds.count(nn.ReLU) == 13 and len(kinds) == 31
    seen: list[tuple[int, ...]] = []
    network.features.register_forward_hook(lambda *given: seen.append(tuple(given[2].shape)))
    made = network(torch.rand(1, 1, 128, 128))
    assert seen == [(1, 512, 4, 4)]
    assert made.shape == (1, 1, 128, 128)
    assert made.min() >= 0 and made.max() <= 1


@pytest.mark.usefixtures("narrow")
def test_the_decoder_upsamples_and_ends_in_a_sigmoid() -> None:
    kinds = [type(layer) for layer in VGG16Autoencoder().decoder]
    assert kinds == [nn.Upsample, nn.Conv2d, nn.ReLU] * 5 + [nn.Conv2d, nn.Sigmoid]


@pytest.mark.usefixtures("narrow")
@torch.inference_mode()
def test_vgg16_sees_the_slice_three_times_as_imagenets_colours() -> None:
    network, image = VGG16Autoencoder(), torch.rand(2, 1, 128, 128)
    seen: list[Tensor] = []
    network.features.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(image)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    colours = [(image[:, 0] - m) / d for m, d in zip(mean, deviation, strict=True)]
    torch.testing.assert_close(seen[0], torch.stack(colours, 1))


@pytest.mark.usefixtures("narrow")
def test_features_learn_until_they_are_frozen_and_the_decoder_always() -> None:
    network = VGG16Autoencoder()
    network(torch.rand(2, 1, 128, 128)).square().sum().backward()
    grads = [p.grad for p in network.features.parameters()]
    assert len(grads) == 26
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
    assert grads[0] is not None and grads[0].any()
    network.zero_grad()
    network.freeze_encoder()
    network(torch.rand(2, 1, 128, 128)).square().sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in network.features.parameters())
    slopes = [p.grad for p in network.decoder.parameters()]
    assert len(slopes) == 12
    assert all(slope is not None and slope.any() for slope in slopes)


# --- a file ---


@pytest.mark.usefixtures("narrow")
def test_convolutions_are_read_from_a_file_and_imagenets_are_downloaded_once(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier is not read."""
    weights = torchvisions()
    torch.save(weights, kept)
    asked = answer_with(monkeypatch, TimeoutError())
    for source in (str(kept), "imagenet"):
        found = read_vgg16_weights(source)
        assert_features_of(found, weights)
        VGG16Autoencoder().features.load_state_dict(found)
    assert asked == []


class _Code:
    """Would run when it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("executed",)


WRONG = {
    "no names": lambda: [1, 2],
    "nothing": dict,
    "other names": lambda: {"0.weight": torch.ones(8, 3, 3, 3)},
    "a layer less": lambda: {k: v for k, v in torchvisions().items() if "28" not in k},
    "a layer more": lambda: torchvisions() | {"features.30.weight": torch.ones(8, 8, 3, 3)},
    "one colour": lambda: torchvisions() | {"features.0.weight": torch.ones(8, 1, 3, 3)},
    "code": lambda: torchvisions() | {"code": _Code()},
    "no file of torch's": lambda: b"",
    "text": lambda: b"no weights",
    "half a file": lambda: b"PK\x03\x04",
    "a pickle": lambda: pickle.dumps([1]),
}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG)
def test_a_file_of_something_else_is_refused(
    values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, content = tmp_path / "wrong.pth", values()
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ConfigError, match=DOWNLOAD_IT) as caught:
        read_vgg16_weights(str(path))
    assert caught.value.subject == str(path)
    assert "executed" not in capsys.readouterr().out


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.pth"
    with pytest.raises(FileNotFoundError) as caught:
        read_vgg16_weights(str(path))
    assert caught.value.filename == str(path)


# --- ImageNet's ---


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch.hub keeps the file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / FILE_NAME
    path.parent.mkdir(parents=True)
    return path


def answer_with(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[str]:
    """Let the network answer with these bytes, or raise this; the addresses it was asked for."""
    asked: list[str] = []

    class Response(io.BytesIO):
        def info(self) -> http.client.HTTPMessage:
            return http.client.HTTPMessage()

    def urlopen(request: Any) -> Response:
        asked.append(request.full_url)
        if isinstance(answer, Exception):
            raise answer
        return Response(answer)

    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    return asked


NO_NETWORK = [
    urllib.error.URLError("no network"),
    urllib.error.HTTPError(IMAGENET_URL, 403, "Forbidden", http.client.HTTPMessage(), None),
    TimeoutError(),
    ConnectionResetError(),
    http.client.IncompleteRead(b"PK"),
]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("error", NO_NETWORK, ids=lambda e: type(e).__name__)
def test_where_imagenets_cannot_be_downloaded_the_way_out_is_said(
    error: Exception, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer_with(monkeypatch, error)
    with pytest.raises(ConfigError, match=f"to download {IMAGENET_URL}; found") as caught:
        read_vgg16_weights("imagenet")
    assert "give the file" in caught.value.remedy and '"none"' in caught.value.remedy
    assert asked == [IMAGENET_URL]
    assert list(kept.parent.iterdir()) == []


@pytest.mark.usefixtures("narrow")
def test_a_download_that_has_another_hash_is_refused(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even of weights that would fit."""
    content = io.BytesIO()
    torch.save(torchvisions(), content)
    asked = answer_with(monkeypatch, content.getvalue())
    with pytest.raises(ConfigError, match="found RuntimeError"):
        read_vgg16_weights("imagenet")
    assert asked == [IMAGENET_URL]
    assert list(kept.parent.iterdir()) == []


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04"])
def test_a_damaged_file_of_an_earlier_download_is_refused(
    content: bytes, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, TimeoutError())
    kept.write_bytes(content)
    with pytest.raises(ConfigError, match=f"to download {IMAGENET_URL}"):
        read_vgg16_weights("imagenet")


@pytest.mark.usefixtures("kept")
def test_the_hash_is_in_the_files_name() -> None:
    assert IMAGENET_URL.rpartition("/")[2] == FILE_NAME
    assert torch.hub.HASH_REGEX.search(FILE_NAME).group(1) == "397923af"  # type: ignore[union-attr]
