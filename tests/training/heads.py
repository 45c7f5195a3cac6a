"""Slices of heads: a textured ellipse in black, with a bright disc where one is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def draw_head(
    seed: int, tumour: bool = False, shape: tuple[int, int] = (150, 130)
) -> NDArray[np.uint8]:
    """Another one for each seed."""
    random = np.random.default_rng(seed)
    nodes = Image.fromarray(random.uniform(60, 200, (7, 7)).astype(np.float32))
    resized = nodes.resize(shape[::-1], Image.Resampling.BICUBIC)
    texture = np.asarray(resized, dtype=np.float32).clip(40, 220)
    down, right = (np.linspace(-1.3, 1.3, n) for n in shape)
    pixels = np.where(np.hypot(down[:, None], right[None]) < 1, texture, 0)
    if tumour:
        row, column = random.uniform(-0.4, 0.4, 2)
        pixels[np.hypot(down[:, None] - row, right[None] - column) < 0.25] = 255
    return pixels.astype(np.uint8)


def head_images(*seeds: int, tumour: bool = False) -> Any:
    """(N, 128, 128) float32 in [0, 1]."""
    heads = [draw_head(seed, tumour, (128, 128)) for seed in seeds]
    return np.stack(heads).astype(np.float32) / 255


def write_heads(
    folder: Path, healthy: int, tumours: int, names: tuple[str, str] = ("no", "yes")
) -> Path:
    """A folder of PNG files: healthy heads of seeds 0, 1, ..., and ones with tumours of others."""
    for name, count, first in ((names[0], healthy, 0), (names[1], tumours, 1000)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = draw_head(first + i, tumour=first > 0)
            Image.fromarray(pixels).save(folder / name / f"{i:02d}.png")
    return folder
