"""Scans that OpenVINO computes in pairs get the same labels as alone."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobento.backends import open_backend
from neurobento.backends import openvino as openvino_backend
from neurobento.registry import open_model

NETWORK = (91, 122, 123)
ROOT = Path(__file__).resolve().parents[3]
CORES = len(os.sched_getaffinity(0))

Draw = Callable[[int], Any]

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
    ),
    pytest.mark.skipif(CORES < 2, reason="one core: OpenVINO computes no scans in pairs here"),
]


def open_paired(folder: Path) -> Any:
    """OpenVINO on two threads, so that it computes in pairs."""
    backend: Any = open_backend(
        open_model(folder), "openvino", device="cpu", precision="fp32", threads=2
    )
    assert backend.details["threads"] == "2"
    return backend


@pytest.fixture
def backend(known_model: Path) -> Iterator[Any]:
    opened = open_paired(known_model)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def compact() -> Iterator[tuple[Any, Any]]:
    """The shipped model in pairs, and on one thread."""
    folder = ROOT / "models" / "compact"
    paired = open_paired(folder)
    alone = open_backend(open_model(folder), "openvino", device="cpu", precision="fp32", threads=1)
    yield paired, alone
    paired.close()
    alone.close()


@pytest.fixture
def batch_of(known_labels: Draw) -> Callable[..., tuple[Any, Any]]:
    """Images of some seeds, and the labels that the known model gives them."""

    def draw(*seeds: int) -> tuple[Any, Any]:
        labels = np.stack([known_labels(seed) for seed in seeds])
        return (labels / np.float32(116)).astype(np.float32)[:, None], labels

    return draw


def blob(seed: int) -> Any:
    """(1, 91, 122, 123) in [0, 1]: an egg of smooth tissue off the centre, zero around it."""
    random = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in NETWORK), indexing="ij")
    centre, radii = random.uniform(-0.1, 0.1, 3), random.uniform(0.6, 0.9, 3)
    far = sum(((x - c) / r) ** 2 for x, c, r in zip(grid, centre, radii, strict=True))
    tissue = 0.5 + 0.1 * sum(np.cos(x * random.uniform(3, 9)) for x in grid)
    return np.where(far < 1, tissue, 0).astype(np.float32)[None]


def counted(monkeypatch: pytest.MonkeyPatch, backend: Any) -> list[int]:
    """Record the sizes of the batches that are computed in pairs."""
    sizes: list[int] = []
    infer_pair = backend._infer_pair

    def infer(images: Any, labels: Any) -> Any:
        sizes.append(len(images))
        return infer_pair(images, labels)

    monkeypatch.setattr(backend, "_infer_pair", infer)
    return sizes


@pytest.mark.parametrize(("count", "pairs"), [(1, 0), (2, 1), (3, 1), (5, 2)])
def test_a_batch_in_pairs_gives_the_labels_of_each_scan(
    backend: Any,
    batch_of: Callable[..., tuple[Any, Any]],
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    pairs: int,
) -> None:
    images, labels = batch_of(*range(count))
    sizes = counted(monkeypatch, backend)
    singles = np.concatenate([backend.infer(image[None]) for image in images])
    assert sizes == []
    batch = backend.infer(images)
    assert sizes == [2] * pairs
    assert np.array_equal(batch, singles)
    assert np.array_equal(batch, labels)


@pytest.mark.slow
def test_the_shipped_model_gives_in_pairs_what_it_gives_alone(
    compact: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sums have a fixed order, so the number of threads does not matter."""
    paired, alone = compact
    images = np.stack([blob(seed) for seed in range(3)])
    assert 0 <= images.min() <= images.max() <= 1
    sizes = counted(monkeypatch, paired)
    singles = np.concatenate([paired.infer(image[None]) for image in images])
    assert np.array_equal(alone.infer(images), singles)
    for count in (2, 3):
        assert np.array_equal(paired.infer(images[:count]), singles[:count])
    assert sizes == [2] * 2
    assert all(len(np.unique(found)) > 10 for found in singles)
    assert not np.array_equal(singles[0], singles[1])


@pytest.mark.slow
def test_norms_are_those_of_the_graph(compact: tuple[Any, Any]) -> None:
    """OpenVINO's own norm, whose sums depend on threads, changes few voxels' labels."""
    import openvino

    paired, _ = compact
    core = openvino.Core()
    graph = core.read_model(ROOT / "models" / "compact" / "model.onnx")
    norms = [op for op in graph.get_ordered_ops() if op.get_type_name() == "MVN"]
    assert len(norms) == 14
    own = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    image = blob(0)[None]
    assert np.mean(own({"image": image})["labels"] != paired.infer(image)) < 1e-4


def test_a_norm_that_cannot_be_written_so_is_left_and_makes_no_pairs(
    known_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_backend, "_fix_summation_order", lambda graph: False)
    backend = open_paired(known_model)
    sizes = counted(monkeypatch, backend)
    backend.infer(np.zeros((2, 1, *NETWORK), np.float32))
    assert sizes == []


def test_an_answer_in_pairs_stays_as_it_is_when_the_next_one_comes(
    backend: Any, batch_of: Callable[..., tuple[Any, Any]]
) -> None:
    images, labels = batch_of(1, 2)
    first = backend.infer(images)
    backend.infer(images[::-1])
    assert np.array_equal(first, labels)


class Failing:
    """A request whose inference ends with an error the first time, once it has begun."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self.failed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    def wait(self) -> None:
        self._request.wait()
        if not self.failed:
            self.failed += 1
            raise RuntimeError("out of luck")


@pytest.mark.parametrize("which", [0, 1])
def test_a_pair_that_fails_leaves_the_backend_usable(
    backend: Any,
    batch_of: Callable[..., tuple[Any, Any]],
    monkeypatch: pytest.MonkeyPatch,
    which: int,
) -> None:
    images, labels = batch_of(1, 2)
    backend.infer(images)
    failing = Failing(backend._pair[which])
    backend._pair[which] = failing
    with pytest.raises(RuntimeError, match="out of luck"):
        backend.infer(images)
    assert failing.failed == 1
    others, other_labels = batch_of(3, 4)
    sizes = counted(monkeypatch, backend)
    assert np.array_equal(backend.infer(others), other_labels)
    assert np.array_equal(backend.infer(images), labels)
    assert sizes == [2, 2]


def test_without_memory_for_a_pair_scans_are_computed_one_by_one(
    backend: Any,
    batch_of: Callable[..., tuple[Any, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The warning comes once, and later batches do not try again."""
    tried = []

    def compile_model(**how: str) -> Any:
        tried.append(how)
        raise RuntimeError("no memory left")

    monkeypatch.setattr(backend, "_compile", compile_model)
    for seeds in ((1, 2), (3, 4, 5), (6, 7, 8, 9, 10)):
        images, labels = batch_of(*seeds)
        assert np.array_equal(backend.infer(images), labels)
    assert len(tried) == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_nobody_is_told_that_openvino_is_used(tmp_path: Path) -> None:
    """The telemetry package is not imported, and no identity is written to the home folder."""
    program = (
        "import sys\n"
        "from neurobento import find_model, open_backend\n"
        "open_backend(find_model('anomaly'), 'openvino')\n"
        "print('openvino' in sys.modules, 'openvino_telemetry.main' in sys.modules)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["True", "False"]
    assert not any("openvino" in str(path) for path in tmp_path.rglob("*"))
