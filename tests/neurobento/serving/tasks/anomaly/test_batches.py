"""What a network found in slices, as one array and back."""

from __future__ import annotations

import numpy as np
import pytest

from neurobento.serving.tasks.anomaly.batches import pack_outputs, unpack_outputs


@pytest.mark.parametrize("count", [1, 5])
def test_what_was_found_comes_back_to_the_bit_in_its_order(count: int) -> None:
    draw = np.random.default_rng(count)
    outputs = {
        "score": draw.random(count, dtype=np.float32),
        "error_map": draw.random((count, 128, 128), dtype=np.float32),
    }
    rows = pack_outputs(outputs, 0.25)
    assert rows.dtype == np.float32
    assert len(rows) == count
    scores, maps, network_s = unpack_outputs(rows)
    assert np.array_equal(scores, outputs["score"])
    assert np.array_equal(maps, outputs["error_map"])
    assert network_s == 0.25


def test_a_batch_may_be_taken_apart_and_joined_and_scores_be_doubles() -> None:
    """As BentoML does between callers."""
    maps = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((128, 128), np.float32)
    rows = pack_outputs({"score": np.arange(3, dtype=np.float32), "error_map": maps}, 1.0)
    scores, found, _ = unpack_outputs(np.concatenate([rows[2:], rows[:1]]))
    assert scores.tolist() == [2, 0]
    assert found[:, 5, 7].tolist() == [2, 0]
    rows = pack_outputs({"score": np.array([0.5]), "error_map": np.zeros((1, 128, 128))}, 0.0)
    assert rows.dtype == np.float32
    assert rows[0, 0] == 0.5
