"""Verification finds what differs, and says by how much."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import verify as verify_module
from export.verify import (
    ALLOWED_DICE_LOSS,
    REQUIRED_AGREEMENT,
    main,
    read_images,
    read_labels,
    remember,
    verify,
)
from neurobento.backends import BackendConfig, list_backend_configs
from neurobento.dice import mean_dice
from neurobento.errors import (
    BackendUnavailable,
    ConfigError,
    EngineMismatch,
    NotOnNetworkGrid,
    ParityFailure,
    SpecMismatch,
)
from neurobento.labels import aal116
from neurobento.registry import Model, open_model
from neurobento.spec import ModelSpec

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
    """Has each backend on a CPU answer given labels, by precision; a GPU has no engine."""

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
            "passed": True,
            "least_agreement": 1.0,
            "mean_dice": 1.0,
            "worst_region": "background",
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
    assert not results["openvino bf16"]["passed"]
    assert results["openvino fp32"]["passed"]


def test_the_worst_region_is_named(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    found = truth.copy()
    found[2][(found[2] == 77) & (np.arange(NETWORK[2]) % 2 == 0)] = 0
    backend_answers(fp32=found, bf16=truth)
    result = verify(Answering([]), model, images)["openvino fp32"]
    assert result["worst_region"] == aal116()[77].name
    kept, whole = ((labels[2] == 77).sum() for labels in (found, truth))
    assert result["worst_region_dice"] == pytest.approx(2 * kept / (kept + whole), abs=1e-6)


def test_classes_that_no_scan_has_are_no_bad_regions(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    few = np.minimum(truth, 3)
    backend_answers(fp32=few, bf16=few)
    result = verify(Answering([]), model, (few[:, None] / np.float32(116)).astype(np.float32))
    assert result["openvino fp32"]["mean_dice"] == 1


def test_dice_against_labels_stands_beside_the_references(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    labels = with_wrong_voxels(truth, 0.1)
    found = with_wrong_voxels(truth, 0.004)
    backend_answers(fp32=found, bf16=labels)
    results = verify(Answering([]), model, images, labels)
    own, references = (
        np.mean([mean_dice(a, b) for a, b in zip(x, labels, strict=True)]) for x in (found, truth)
    )
    assert own > references
    assert results["reference_dice"] == pytest.approx(references, abs=1e-4)
    assert results["openvino fp32"]["dice"] == pytest.approx(own, abs=1e-4)
    assert results["openvino bf16"]["dice"] == 1


def test_without_labels_no_dice_is_told(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    backend_answers(fp32=truth, bf16=truth)
    results = verify(Answering([]), model, images)
    assert "reference_dice" not in results
    assert "dice" not in results["openvino fp32"]


def test_every_way_but_pytorch_is_told_of(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    """It is the truth."""
    backend_answers(fp32=truth)
    results = verify(Answering([]), model, images)
    ways = {str(way) for way in list_backend_configs() if not way.backend.startswith("pytorch")}
    told = {name for name, result in results.items() if isinstance(result, dict)}
    assert told == ways
    for way in list_backend_configs():
        if way.device == "cuda" and str(way) in ways:
            assert list(results[str(way)]) == ["not_verified"]
            assert "found no engine" in results[str(way)]["not_verified"]


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


def test_without_labels_int8_is_not_verified(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    backend_answers(fp32=truth, int8=truth)
    results = verify(Answering([]), model, images)
    assert results["openvino int8"] == {"not_verified": "no labels beside the scans"}
    assert results["allowed_dice_loss"] == ALLOWED_DICE_LOSS


@pytest.mark.parametrize(("share", "passed"), [(0.001, True), (0.1, False)])
def test_int8_passes_by_its_dice(
    model: Model,
    images: Any,
    truth: Any,
    backend_answers: Callable[..., Any],
    share: float,
    passed: bool,
) -> None:
    backend_answers(fp32=truth, int8=with_wrong_voxels(truth, share))
    results = verify(Answering([]), model, images, truth)
    assert results["openvino int8"]["passed"] is passed


class Replaying(Answering):
    """A backend on a GPU whose second answer is another than its first."""

    calls = 0

    def infer(self, images: Any) -> Any:
        self.calls += 1
        return self._labels if self.calls == 2 else np.zeros_like(self._labels)


def test_on_a_gpu_the_second_answer_counts(
    model: Model, images: Any, truth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the one that is replayed; a CPU has none."""
    opened = Replaying(truth)
    monkeypatch.setattr(verify_module, "open_backend", lambda *_, **__: opened)
    results = verify(Answering([]), model, images, ways=[BackendConfig("tensorrt", "cuda", "fp16")])
    assert results["tensorrt fp16"]["passed"]
    assert (opened.calls, opened.closed) == (2, True)
    opened.calls = 0
    results = verify(Answering([]), model, images, ways=[BackendConfig("openvino", "cpu", "bf16")])
    assert (opened.calls, results["openvino bf16"]["passed"]) == (1, False)


class Failing(Answering):
    """A backend without memory."""

    def infer(self, images: Any) -> Any:
        raise RuntimeError("out of memory " * 100)


def test_a_way_that_fails_is_not_verified_unless_it_is_needed(
    model: Model, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Failing([])
    monkeypatch.setattr(verify_module, "open_backend", lambda *_, **__: opened)
    results = verify(Answering([]), model, images, ways=[BackendConfig("tensorrt", "cuda", "fp16")])
    assert results["tensorrt fp16"] == {"not_verified": ("out of memory " * 100)[:300]}
    assert opened.closed
    with pytest.raises(RuntimeError, match="out of memory"):
        verify(Answering([]), model, images, ways=[BackendConfig("openvino", "cpu", "fp32")])


def test_dice_by_region_is_told_on_demand(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    few = np.minimum(truth, 3)
    few_images = (few[:, None] / np.float32(116)).astype(np.float32)
    ways = [BackendConfig("openvino", "cpu", "fp32")]
    backend_answers(fp32=few)
    assert (
        "dice_by_region" not in verify(Answering([]), model, few_images, few, ways)["openvino fp32"]
    )
    told = verify(Answering([]), model, few_images, few, ways, by_region=True)
    assert told["openvino fp32"]["dice_by_region"] == [1.0] * 4 + [None] * 113
    assert json.loads(json.dumps(told)) == told


def test_every_backend_is_closed(
    model: Model, images: Any, truth: Any, backend_answers: Callable[..., Any]
) -> None:
    opened = backend_answers(fp32=truth, bf16=truth, int8=truth)
    verify(Answering([]), model, images, truth)
    on_cpu = [
        way
        for way in list_backend_configs()
        if way.device == "cpu" and "pytorch" not in way.backend
    ]
    assert len(opened) == len(on_cpu) == 5
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


def test_labels_are_read_from_beside_the_images(
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


def test_an_image_is_not_taken_for_its_own_labels(
    write_nifti: Callable[..., Path], truth: Any
) -> None:
    assert read_labels([write_nifti(truth[0], name="scan.nii.gz")]) is None


def test_what_another_machine_verified_is_remembered() -> None:
    known = {"tensorrt fp16": {"passed": True, "dice": 0.8}, "scans": 3}
    verified = {"tensorrt fp16": {"not_verified": "no GPU"}, "scans": 4}
    assert remember(verified, known) == {"tensorrt fp16": known["tensorrt fp16"], "scans": 4}


@pytest.mark.parametrize("passed", [True, False])
def test_what_was_verified_here_replaces_what_was_known(passed: bool) -> None:
    known = {"openvino fp32": {"passed": not passed}, "gone fp32": {"passed": True}}
    verified = {"openvino fp32": {"passed": passed}}
    assert remember(verified, known) == verified


@pytest.mark.parametrize("known", [{"least_agreement": 1.0}, {"not_verified": "long ago"}, 7])
def test_what_never_passed_nor_failed_is_not_remembered(known: Any) -> None:
    verified = {"tensorrt fp16": {"not_verified": "no GPU"}}
    assert remember(verified, {"tensorrt fp16": known}) == verified


@pytest.fixture
def copied(published: Any, tmp_path: Path) -> Path:
    """The published model, to be written to."""
    folder = tmp_path / "compact"
    shutil.copytree(published.folder, folder)
    return folder


@pytest.fixture
def one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verifies with what every machine has, and one thing that it has not."""
    ways = [BackendConfig("openvino", "cpu", "fp32"), BackendConfig("tensorrt", "cuda", "fp16")]
    monkeypatch.setattr(verify_module, "list_backend_configs", lambda: ways)


@pytest.mark.slow
@pytest.mark.usefixtures("one_way")
def test_the_command_prints_the_result_and_writes_nothing(
    published: Any, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copied / "spec.json").read_bytes()
    assert main([str(copied), "--scans", *map(str, published.scans)]) == 0
    printed = json.loads(capsys.readouterr().out)["compact"]
    assert printed.items() <= published.spec.verification.items()
    assert (copied / "spec.json").read_bytes() == before


@pytest.mark.slow
def test_the_command_may_look_at_some_backends_alone(
    published: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = [str(path) for path in published.scans]
    assert main([str(published.folder), "--scans", *scans, "--backends", "onnxruntime"]) == 0
    (result,) = json.loads(capsys.readouterr().out).values()
    assert result["onnxruntime fp32"]["passed"]
    assert not any(name.startswith("openvino") for name in result)


def test_the_command_prints_one_document_and_writes_no_regions(
    known_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What was found before a failure is printed too."""
    result = {"scans": 3, "openvino fp32": {"passed": True, "dice_by_region": [1.0, None]}}
    folders = [tmp_path / name for name in ("compact", "unet", "highresnet")]
    for folder in folders:
        shutil.copytree(known_model, folder)
        spec = ModelSpec.read(folder / "spec.json")
        dataclasses.replace(spec, name=folder.name).write(folder / "spec.json")

    def answer(_: Any, model: Model, *__: Any, by_region: bool) -> dict[str, Any]:
        assert by_region
        if model.spec.name == "highresnet":
            raise ParityFailure(subject="it", expected="labels", found="others", remedy="None.")
        return result

    for name in ("read_images", "read_labels", "open_weights", "load_network"):
        monkeypatch.setattr(verify_module, name, lambda given: given)
    monkeypatch.setattr(verify_module, "verify", answer)
    with pytest.raises(ParityFailure):
        main([*map(str, folders), "--scans", "scan.nii.gz", "--write"])
    assert json.loads(capsys.readouterr().out) == {"compact": result, "unet": result}
    written = open_model(folders[1]).spec.verification
    assert written == {"scans": 3, "openvino fp32": {"passed": True}}


@pytest.mark.slow
@pytest.mark.usefixtures("one_way")
def test_on_demand_the_command_writes_the_result_beside_what_is_known(
    published: Any, copied: Path
) -> None:
    spec = ModelSpec.read(copied / "spec.json")
    known = {"tensorrt fp16": {"passed": True, "dice": 0.8}, "openvino fp32": {"passed": False}}
    dataclasses.replace(spec, verification=known).write(copied / "spec.json")
    assert main([str(copied), "--scans", *map(str, published.scans), "--write"]) == 0
    written = open_model(copied).spec
    assert written.verification["tensorrt fp16"] == known["tensorrt fp16"]
    assert written.verification["openvino fp32"] == spec.verification["openvino fp32"]
    assert dataclasses.replace(written, verification={}) == dataclasses.replace(
        spec, verification={}
    )


@pytest.mark.slow
def test_the_command_takes_no_other_weights_than_the_specs(published: Any, copied: Path) -> None:
    with (copied / "weights.pt").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(SpecMismatch, match="SHA-256"):
        main([str(copied), "--scans", *map(str, published.scans), "--write"])
