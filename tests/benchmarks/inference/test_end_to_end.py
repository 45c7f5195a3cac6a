"""End to end, every stage of a scan is timed, and the stages make up the whole."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.inference import end_to_end
from benchmarks.inference.end_to_end import REGISTRATION, stage_seconds
from benchmarks.inference.latency import main
from benchmarks.runs import Run
from neurobento.parcellation.parcellator import Parcellator, prepare, restore_and_measure
from neurobento.spec import REPORT_A_VERSION, ModelSpec

NINE_STEPS = (
    *("skull_stripping", "bias_correction", "spacing", "orientation", "histogram_normalize"),
    *("scale_intensity", "crop_foreground", "resize"),
)


@pytest.fixture
def scan(phantom: Any, write_nifti: Callable[..., Path]) -> Path:
    """A brain without skull."""
    return write_nifti(phantom.image, phantom.affine)


def arguments(scan: Path, known_model: Path, output: Path) -> list[str]:
    return [
        *("--end-to-end", str(scan), "--preprocessing", "stripped", "-o", str(output)),
        *("--rounds", "1", "--models-folder", str(known_model.parent), "--backends", "pytorch"),
    ]


@pytest.mark.usefixtures("idle_backends", "own_environment")
def test_every_stage_is_timed_and_registration_is_a_peer(
    scan: Path, known_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_registration(scan: Any, preprocessing: Any, _: Any) -> Any:
        prepared = prepare(scan, preprocessing, REPORT_A_VERSION)
        return restore_and_measure(prepared, prepared.image.astype("uint8"), {"register": 9.0})

    monkeypatch.setattr(end_to_end, "find_atlas", lambda _: "atlas")
    monkeypatch.setattr(end_to_end, "parcellate_by_registration", by_registration)
    main([*arguments(scan, known_model, tmp_path / "run.json"), "--registration"])
    run = Run.read(tmp_path / "run.json")
    assert (run.kind, run.scenario["preprocessing"]) == ("end_to_end", "stripped")
    network = run.entries["regions pytorch fp32"].samples
    after = ("restore", "measure", "total")
    wanted = [f"{name}_s" for name in ("read", *NINE_STEPS[1:], "infer", *after)]
    assert list(network) == wanted
    registered = run.entries[REGISTRATION].samples
    assert registered["register_s"] == [9.0]
    assert "infer_s" not in registered


@pytest.mark.usefixtures("idle_backends", "own_environment")
def test_deepbets_mask_is_a_stage_of_a_peer(
    scan: Path, known_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = []

    def mask(scan: Any) -> Any:
        masked.append(scan.shape)
        return scan.array > 0

    monkeypatch.setattr(end_to_end, "deepbet_mask", mask)
    main([*arguments(scan, known_model, tmp_path / "run.json"), "--deepbet"])
    run = Run.read(tmp_path / "run.json")
    samples = run.entries["regions pytorch fp32 behind deepbet"].samples
    assert {"skull_stripping_s", "infer_s", "total_s"} <= samples.keys()
    # once to read its networks, once to be timed
    assert len(masked) == 2


def test_the_stages_make_up_the_whole(scan: Path) -> None:
    class Still:
        """A backend that takes no time worth the name."""

        spec = ModelSpec.of_task(
            "parcellation",
            name="still",
            version="0",
            network="regions",
            onnx_sha256="",
            checkpoint_sha256="",
            opset=18,
        )

        atlas = None

        def answer(self, images: Any) -> Any:
            return images[:, 0].astype("uint8")

    backend: Any = Still()
    found = dict(stage_seconds(scan, lambda it: Parcellator(backend).parcellate(it, "stripped")))
    total = found.pop("total_s")
    assert 0.8 * total < sum(found.values()) <= total


def test_nothing_that_all_candidates_use_is_loaded_in_a_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called = []
    backend: Any = types.SimpleNamespace(infer=lambda images: called.append(images.shape))
    broken: Any = types.SimpleNamespace(infer=lambda _: [][1])
    one, two, other = (types.SimpleNamespace(name=name) for name in ("one", "two", "other"))
    ready, left_out = end_to_end._warm_up_all([(one, backend), (other, broken), (two, backend)], 2)
    assert {"ants", "scipy.ndimage"} <= set(sys.modules)
    assert called == [(1, 1, 91, 122, 123)] * 4
    assert (list(ready), list(left_out)) == (["one", "two"], ["other"])
