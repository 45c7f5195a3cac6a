"""Memory is measured in a process of its own, on the host and on the GPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.inference import memory
from benchmarks.inference.memory import GpuMemoryWatch, main
from benchmarks.runs import Run

GIB = 1 << 30


def arguments(known_model: Path, output: Path, *extra: str) -> list[str]:
    return [
        *("-o", str(output), "--models-folder", str(known_model.parent), "--batches", "1"),
        *("--precisions", "fp32", "--backends", *extra),
    ]


def test_a_candidates_peak_lies_above_its_libraries(known_model: Path, tmp_path: Path) -> None:
    """The known model's image and scaled image alone take 11 MB."""
    main(arguments(known_model, tmp_path / "run.json", "onnxruntime"))
    run = Run.read(tmp_path / "run.json")
    samples = run.entries["regions onnxruntime fp32"].samples
    baseline, loaded, peak = (
        samples[f"host_{name}_bytes"][0] for name in ("baseline", "loaded", "peak")
    )
    assert 50e6 < baseline < loaded < peak < 2e9
    assert peak - baseline > 11e6
    assert set(run.left_out) == {"regions pytorch fp32"}
    assert "weights.pt" in run.left_out["regions pytorch fp32"]


def test_the_whole_path_of_a_scan_is_measured(
    known_model: Path, write_nifti: Callable[..., Path], phantom: Any, tmp_path: Path
) -> None:
    scan = write_nifti(phantom.image, phantom.affine)
    options = ["--scan", str(scan), "--preprocessing", "stripped"]
    main([*arguments(known_model, tmp_path / "run.json", "onnxruntime"), *options])
    run = Run.read(tmp_path / "run.json")
    assert run.scenario["preprocessing"] == "stripped"
    samples = run.entries["regions onnxruntime fp32"].samples
    assert samples["host_peak_bytes"][0] > samples["host_loaded_bytes"][0]


@pytest.fixture
def replace_probe(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that replaces the probe with a program; other commands are unchanged."""
    real = subprocess.run

    def replace(program: str) -> None:
        def run(command: list[str], **options: Any) -> Any:
            probe = command[0] == sys.executable
            return real([sys.executable, "-c", program] if probe else command, **options)

        monkeypatch.setattr(subprocess, "run", run)

    return replace


def test_figures_of_the_gpu_stand_beside_the_hosts(
    known_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replace_probe: Callable[[str], None],
) -> None:
    used = iter([2 * GIB, 3 * GIB, 5 * GIB])
    monkeypatch.setattr(memory, "POLL_S", 0.001)
    monkeypatch.setattr(memory, "gpu_memory_used_bytes", lambda: next(used, 4 * GIB))
    replace_probe("""print('noise\\n{"host_baseline_bytes": 1, "host_peak_bytes": 2}')""")
    main(arguments(known_model, tmp_path / "run.json", "pytorch"))
    samples = Run.read(tmp_path / "run.json").entries["regions pytorch fp32"].samples
    assert samples["device_peak_bytes"] == [3 * GIB]


def test_without_a_gpu_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "gpu_memory_used_bytes", lambda: None)
    with GpuMemoryWatch() as device:
        pass
    assert device.rise_bytes is None


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import time; time.sleep(60)", "no answer within 0 s"),
        ("raise SystemExit('early\\nno GPU')", "no GPU"),
        ("raise SystemExit(7)", "exit status 7"),
    ],
)
def test_a_candidate_that_does_not_answer_is_left_out(
    program: str,
    reason: str,
    known_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replace_probe: Callable[[str], None],
) -> None:
    if "sleep" in program:
        monkeypatch.setattr(memory, "LIMIT_S", 0.2)
    replace_probe(program)
    main(arguments(known_model, tmp_path / "run.json", "pytorch"))
    assert Run.read(tmp_path / "run.json").left_out == {"regions pytorch fp32": reason}
