"""The brain finder's masks against a teacher's and against the truth."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neurobento.imaging.geometry import FINDER_SHAPE
from tests.training.brain.head_map import head_map
from training.brain import evaluate
from training.brain.drawn_heads import draw_head
from training.brain.evaluate import compare_drawn, compare_real, mask_dice


def test_dice_of_masks() -> None:
    one = np.zeros((4, 4, 4), bool)
    one[:2] = True
    other = np.zeros((4, 4, 4), bool)
    other[1:2] = True
    assert mask_dice(one, one) == 1
    assert mask_dice(one, other) == pytest.approx(2 * 16 / (32 + 16))
    assert mask_dice(one, ~one) == 0


def test_a_head_is_compared_on_its_own_grid(phantom: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finder says what the scan shows, the teacher one half of it."""
    scan = phantom.scan()
    shown = scan.array > 0
    half = shown.copy()
    half[: half.shape[0] // 2] = False
    monkeypatch.setattr(evaluate, "deepbet_mask", lambda scan: half)

    def run(images: Any) -> dict[str, Any]:
        # half of the phantom's brightness, as its border is blurred
        share = (images[:, 0] > 0.25).astype(np.float32)
        return {"brain": share, "tissues": np.full(share.shape, 5, np.uint8)}

    spec = SimpleNamespace(onnx_sha256="f" * 64)
    finder: Any = SimpleNamespace(run=run, spec=spec)
    figures, found, teacher = compare_real(finder, scan)
    assert found.shape == teacher.shape == scan.shape
    assert mask_dice(found, shown) > 0.95
    assert figures["volume_ratio"] == pytest.approx(shown.sum() / half.sum(), rel=0.05)
    assert figures["dice"] == pytest.approx(mask_dice(found, half), abs=1e-4)


def test_drawn_heads_are_judged_by_their_own_truth() -> None:
    maps = [head_map()]
    truths = [draw_head(maps[0], np.random.default_rng([evaluate.SEED, i])).brain for i in (0, 1)]
    answers = iter([truths[0].numpy(), np.zeros(FINDER_SHAPE, np.float32)])
    finder = SimpleNamespace(run=lambda images: {"brain": next(answers)[None]})
    assert compare_drawn(finder, maps, 2) == [1.0, 0.0]  # type: ignore[arg-type]
