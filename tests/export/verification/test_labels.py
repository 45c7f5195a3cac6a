"""Verification finds how far labels differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.verification import labels as labels_module
from export.verification.labels import ALLOWED_DICE_LOSS, read_images, read_labels, verify_labels
from neurobento.backends import BackendConfig, list_backend_configs
from neurobento.dice import mean_dice
from neurobento.errors import (
    BackendUnavailable,
    ConfigError,
    EngineMismatch,
    NotOnNetworkGrid,
    ParityFailure,
)
from neurobento.labels import aal116
from neurobento.registry import Model, open_model

NETWORK = (91, 122, 123)
OPENVINO = BackendConfig("openvino", "cpu", "fp32")
TENSORRT = BackendConfig("tensorrt", "cuda", "fp16")


class Answering:
    """A network or a backend whose labels are given."""

    atlas = None

    def __init__(self, labels: Any) -> None:
        self._labels = np.asarray(labels, dtype=np.uint8)
        self.closed = False

    def labels(self, image: Any) -> Any:
        import torch

        # The known model rounds; intensities are k/116, so halves do not occur.
        return torch.round(image[:, 0] * 116).to(torch.uint8)

    def infer(self, images: Any) -> Any:
        return self._labels[: len(images)]

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def truth(known_labels: Callable[[int], Any]) -> Any:
    return np.stack([known_labels(seed) for seed in (41, 42, 43)])


@pytest.fixture(scope="module")
def images(truth: Any) -> Any:
    return (truth[:, None] / np.float32(116)).astype(np.float32)


@pytest.fixture(scope="module")
def model(known_model: Path) -> Model:
    return open_model(known_model)


@pytest.fixture
def backend_answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Answering]]:
    """Return a function that makes CPU backends return given labels, by precision."""

    def install(**labels: Any) -> list[Answering]:
        opened: list[Answering] = []

        def open_fake(
            model: Model, name: str, *, device: str, precision: str, unverified: bool
        ) -> Answering:
            assert unverified
            if device == "cuda":
                raise EngineMismatch(
                    subject="engine", expected=precision, found="no engine", remedy="Build it."
                )
            if precision not in labels:
                raise BackendUnavailable(
                    subject="precision", expected=precision, found="none", remedy="Another CPU."
                )
            opened.append(Answering(labels[precision]))
            return opened[-1]

        monkeypatch.setattr(labels_module, "open_backend", open_fake)
        return opened

    return install


@pytest.fixture
def verified(
    model: Model, images: Any, backend_answers: Callable[..., Any]
) -> Callable[..., dict[str, Any]]:
    """Return a function that verifies a model whose backends return given labels."""

    def verify(against: Any = None, **labels: Any) -> dict[str, Any]:
        backend_answers(**labels)
        return verify_labels(Answering([]), model, images, against)

    return verify


def with_wrong_voxels(truth: Any, share: float, scan: int = 1) -> Any:
    """Return the labels with that share of one scan's voxels wrong."""
    changed = truth.copy()
    flat = changed[scan].reshape(-1)
    count = round(share * flat.size)
    flat[:count] = (flat[:count] + 1) % 117
    return changed


def test_a_model_that_agrees_passes_with_full_marks(model: Model, images: Any) -> None:
    results = verify_labels(Answering([]), model, images)
    assert results["scans"] == 3
    assert results["grid"] == list(NETWORK)
    for name in ("openvino fp32", "onnxruntime fp32"):
        assert results[name] == {
            "passed": True,
            "least_agreement": 1.0,
            "mean_dice": 1.0,
            "worst_region": "background",
            "worst_region_dice": 1.0,
        }


def test_the_worst_scan_counts_and_a_lower_precision_may_differ(
    verified: Callable[..., Any], truth: Any
) -> None:
    results = verified(fp32=with_wrong_voxels(truth, 0.004), bf16=with_wrong_voxels(truth, 0.02))
    assert results["onnxruntime fp32"]["least_agreement"] == pytest.approx(0.996, abs=1e-5)
    assert results["onnxruntime fp32"]["mean_dice"] < 1
    assert results["openvino fp32"]["passed"]
    assert results["openvino bf16"]["least_agreement"] == pytest.approx(0.98, abs=1e-5)
    assert not results["openvino bf16"]["passed"]


@pytest.mark.parametrize("scan", [0, 1, 2])
def test_one_scan_below_the_required_share_fails(
    verified: Callable[..., Any], truth: Any, scan: int
) -> None:
    with pytest.raises(ParityFailure, match=r"0\.995.*found 0\.994"):
        verified(fp32=with_wrong_voxels(truth, 0.006, scan), bf16=truth)


def test_the_worst_region_is_named(verified: Callable[..., Any], truth: Any) -> None:
    found = truth.copy()
    found[2][(found[2] == 77) & (np.arange(NETWORK[2]) % 2 == 0)] = 0
    result = verified(fp32=found, bf16=truth)["openvino fp32"]
    assert result["worst_region"] == aal116()[77].name
    kept, whole = ((labels[2] == 77).sum() for labels in (found, truth))
    assert result["worst_region_dice"] == pytest.approx(2 * kept / (kept + whole), abs=1e-6)


def test_dice_against_labels_stands_beside_the_references(
    verified: Callable[..., Any], truth: Any
) -> None:
    labels = with_wrong_voxels(truth, 0.1)
    found = with_wrong_voxels(truth, 0.004)
    results = verified(labels, fp32=found, bf16=labels)
    own, references = (
        np.mean([mean_dice(a, b) for a, b in zip(x, labels, strict=True)]) for x in (found, truth)
    )
    assert own > references
    assert results["reference_dice"] == pytest.approx(references, abs=1e-4)
    assert results["openvino fp32"]["dice"] == pytest.approx(own, abs=1e-4)
    assert results["openvino bf16"]["dice"] == 1


def test_every_config_but_pytorchs_has_a_result(verified: Callable[..., Any], truth: Any) -> None:
    results = verified(fp32=truth)
    configs = [c for c in list_backend_configs() if not c.backend.startswith("pytorch")]
    found = {name for name, result in results.items() if isinstance(result, dict)}
    assert found == {str(config) for config in configs}
    for config in configs:
        if config.device == "cuda":
            assert list(results[str(config)]) == ["not_verified"]
            assert "found no engine" in results[str(config)]["not_verified"]
    # A precision that this machine lacks.
    assert list(results["openvino bf16"]) == ["not_verified"]
    assert "found none" in results["openvino bf16"]["not_verified"]


def test_without_fp32_nothing_is_verified(verified: Callable[..., Any], truth: Any) -> None:
    with pytest.raises(BackendUnavailable):
        verified(bf16=truth)


def test_without_labels_there_is_no_dice_and_int8_is_not_verified(
    verified: Callable[..., Any], truth: Any
) -> None:
    results = verified(fp32=truth, int8=truth)
    assert "reference_dice" not in results
    assert "dice" not in results["openvino fp32"]
    assert results["openvino int8"] == {"not_verified": "no labels beside the scans"}
    assert results["allowed_dice_loss"] == ALLOWED_DICE_LOSS


@pytest.mark.parametrize(("share", "passed"), [(0.001, True), (0.1, False)])
def test_int8_passes_by_its_dice(
    verified: Callable[..., Any], truth: Any, share: float, passed: bool
) -> None:
    results = verified(truth, fp32=truth, int8=with_wrong_voxels(truth, share))
    assert results["openvino int8"]["passed"] is passed


class Replaying(Answering):
    """A GPU backend whose second result differs from its first."""

    calls = 0

    def infer(self, images: Any) -> Any:
        self.calls += 1
        return self._labels if self.calls == 2 else np.zeros_like(self._labels)


def test_on_a_gpu_the_second_answer_counts(
    model: Model, images: Any, truth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU replays it; a CPU calls once."""
    opened = Replaying(truth)
    monkeypatch.setattr(labels_module, "open_backend", lambda *_, **__: opened)
    results = verify_labels(Answering([]), model, images, configs=[TENSORRT])
    assert results["tensorrt fp16"]["passed"]
    assert (opened.calls, opened.closed) == (2, True)
    opened.calls = 0
    on_cpu = BackendConfig("openvino", "cpu", "bf16")
    results = verify_labels(Answering([]), model, images, configs=[on_cpu])
    assert (opened.calls, results["openvino bf16"]["passed"]) == (1, False)


class Failing(Answering):
    """A backend without memory."""

    def infer(self, images: Any) -> Any:
        raise RuntimeError("out of memory " * 100)


def test_a_config_that_fails_is_not_verified_unless_it_is_needed(
    model: Model, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Failing([])
    monkeypatch.setattr(labels_module, "open_backend", lambda *_, **__: opened)
    results = verify_labels(Answering([]), model, images, configs=[TENSORRT])
    assert results["tensorrt fp16"] == {"not_verified": ("out of memory " * 100)[:300]}
    assert opened.closed
    with pytest.raises(RuntimeError, match="out of memory"):
        verify_labels(Answering([]), model, images, configs=[OPENVINO])


def test_classes_that_no_scan_has_do_not_count_and_dice_by_region_is_returned_on_demand(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    few = np.minimum(truth, 3)
    few_images = (few[:, None] / np.float32(116)).astype(np.float32)
    backend_answers(fp32=few)
    found = verify_labels(Answering([]), model, few_images, few, [OPENVINO])
    assert found["openvino fp32"]["mean_dice"] == 1
    assert "dice_by_region" not in found["openvino fp32"]
    found = verify_labels(Answering([]), model, few_images, few, [OPENVINO], by_region=True)
    assert found["openvino fp32"]["dice_by_region"] == [1.0] * 4 + [None] * 113
    assert json.loads(json.dumps(found)) == found


def test_every_backend_is_closed(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    opened = backend_answers(fp32=truth, bf16=truth, int8=truth)
    verify_labels(Answering([]), model, images, truth)
    configs = list_backend_configs()
    on_cpu = [c for c in configs if c.device == "cpu" and "pytorch" not in c.backend]
    assert len(opened) == len(on_cpu) == 5
    assert all(backend.closed for backend in opened)


def test_images_are_read_as_a_batch(write_nifti: Callable[..., Path], images: Any) -> None:
    paths = [write_nifti(image[0], name=f"{i}.nii.gz") for i, image in enumerate(images)]
    found = read_images(paths)
    assert found.dtype == np.float32
    assert np.array_equal(found, images)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_scans_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 3 scans; found {count}"):
        read_images([Path("scan.nii.gz")] * count)


def test_a_scan_on_another_grid_is_refused(write_nifti: Callable[..., Path], phantom: Any) -> None:
    path = write_nifti(phantom.image, phantom.affine)
    with pytest.raises(NotOnNetworkGrid):
        read_images([path] * 3)


def test_labels_are_read_from_beside_the_images_and_an_image_is_not_its_own_labels(
    write_nifti: Callable[..., Path], truth: Any
) -> None:
    paths = [write_nifti(truth[i] / 116, name=f"{i}_image.nii.gz") for i in range(3)]
    for i in range(3):
        assert read_labels(paths) is None
        write_nifti(truth[i], name=f"{i}_labels.nii.gz")
    found = read_labels(paths)
    assert found is not None
    assert found.dtype == np.uint8
    assert np.array_equal(found, truth)
    assert read_labels([write_nifti(truth[0], name="scan.nii.gz")]) is None
