"""Verification finds what differs, and says by how much."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import verify as verify_module
from export.verify import REQUIRED_AGREEMENT, main, read_images, verify
from neurobento.errors import BackendUnavailable, ConfigError, NotOnNetworkGrid, ParityFailure
from neurobento.registry import Model, open_model

NETWORK = (91, 122, 123)


class Answering:
    """A network or a backend whose labels are given."""

    def __init__(self, labels: Any) -> None:
        self._labels = np.asarray(labels, dtype=np.uint8)
        self.closed = False

    def labels(self, image: Any) -> Any:
        import torch

        # the known model's rule; half is never met, for intensities are k/116
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
    """Has each backend answer given labels, by precision."""

    def install(**labels: Any) -> list[Answering]:
        opened: list[Answering] = []

        def open_fake(model: Model, name: str, *, precision: str) -> Answering:
            if precision not in labels:
                raise BackendUnavailable(
                    subject="precision", expected=precision, found="none", remedy="Another CPU."
                )
            opened.append(Answering(labels[precision]))
            return opened[-1]

        monkeypatch.setattr(verify_module, "open_backend", open_fake)
        return opened

    return install


def with_wrong_voxels(truth: Any, share: float, scan: int = 1) -> Any:
    """The labels with that share of one scan's voxels wrong."""
    changed = truth.copy()
    flat = changed[scan].reshape(-1)
    count = round(share * flat.size)
    flat[:count] = (flat[:count] + 1) % 117
    return changed


def test_a_model_that_agrees_passes_with_full_marks(model: Model, images: Any) -> None:
    results = verify(Answering([]), model, images)
    assert results["scans"] == 3
    assert results["grid"] == list(NETWORK)
    for name in ("openvino fp32", "onnxruntime fp32"):
        assert results[name] == {
            "least_agreement": 1.0,
            "mean_dice": 1.0,
            "worst_region_dice": 1.0,
        }


def test_the_worst_scan_counts(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    found = with_wrong_voxels(truth, 0.004)
    backend_answers(fp32=found, bf16=truth)
    results = verify(Answering([]), model, images)
    assert results["onnxruntime fp32"]["least_agreement"] == pytest.approx(0.996, abs=1e-5)
    assert results["onnxruntime fp32"]["mean_dice"] < 1


@pytest.mark.parametrize("scan", [0, 1, 2])
def test_one_scan_below_the_required_share_fails(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any], scan: int
) -> None:
    backend_answers(fp32=with_wrong_voxels(truth, 0.006, scan), bf16=truth)
    with pytest.raises(ParityFailure, match=r"0\.995.*found 0\.994"):
        verify(Answering([]), model, images)


def test_a_lower_precision_is_told_but_does_not_fail(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    backend_answers(fp32=truth, bf16=with_wrong_voxels(truth, 0.02))
    results = verify(Answering([]), model, images)
    assert results["openvino bf16"]["least_agreement"] == pytest.approx(0.98, abs=1e-5)


def test_a_precision_that_this_machine_lacks_is_listed_as_not_verified(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    backend_answers(fp32=truth)
    results = verify(Answering([]), model, images)
    assert list(results["openvino bf16"]) == ["not_verified"]
    assert "found none" in results["openvino bf16"]["not_verified"]


def test_without_fp32_nothing_is_verified(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    backend_answers(bf16=truth)
    with pytest.raises(BackendUnavailable):
        verify(Answering([]), model, images)


def test_every_backend_is_closed(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    opened = backend_answers(fp32=truth, bf16=truth)
    verify(Answering([]), model, images)
    assert len(opened) == 3
    assert all(backend.closed for backend in opened)


def test_the_required_share_is_half_a_percent_from_all() -> None:
    assert REQUIRED_AGREEMENT == 0.995


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


@pytest.mark.slow
def test_the_command_prints_the_result(published: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scans = [str(path) for path in published.scans]
    weights = published.folder / "weights.pt"
    assert main([str(weights), str(published.folder), "--scans", *scans]) == 0
    assert json.loads(capsys.readouterr().out) == published.spec.verification
