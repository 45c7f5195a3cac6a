"""One suite that every installed backend passes."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from neurobento.backends import BACKENDS, Backend, BackendConfig, list_backend_configs, open_backend
from neurobento.errors import BackendUnavailable
from neurobento.registry import Model

NETWORK = (91, 122, 123)

INSTALLED = [
    name for name, entry in BACKENDS.items() if "cpu" in entry.precisions and entry.is_installed()
]

ON_CPU = [
    config
    for config in list_backend_configs()
    if config.device == "cpu" and config.backend in INSTALLED
]


Draw = Callable[[int], Any]


def case(config: BackendConfig) -> Any:
    marks = [pytest.mark.slow] if config.backend == "pytorch-compiled" else []
    return pytest.param(config, marks=marks, id=str(config).replace(" ", "-"))


@pytest.fixture(scope="module", params=map(case, ON_CPU))
def backend(request: pytest.FixtureRequest, model: Model) -> Iterator[Backend]:
    import torch

    config: BackendConfig = request.param
    threads = torch.get_num_threads()
    try:
        opened = open_backend(
            model, config.backend, device=config.device, precision=config.precision, threads=1
        )
    except BackendUnavailable as error:
        if config.precision == "fp32" and config.backend != "pytorch-compiled":
            raise
        pytest.skip(f"not on this machine: {error.message}")
    yield opened
    opened.close()
    torch.set_num_threads(threads)


def image_of(labels: Any) -> Any:
    """(1, 91, 122, 123): the image for which the known model answers these labels."""
    return (labels / np.float32(116)).astype(np.float32)[None]


def test_at_least_one_backend_is_installed() -> None:
    assert INSTALLED


def test_labels_are_the_models_with_every_class_index(backend: Backend, known_labels: Draw) -> None:
    labels = known_labels(1)
    found = backend.infer(image_of(labels)[None])
    assert found.dtype == np.uint8
    assert np.array_equal(found, labels[None])
    labels = np.zeros(NETWORK, dtype=np.uint8)
    labels[0, 0, :117] = np.arange(117)
    assert np.array_equal(backend.infer(image_of(labels)[None])[0], labels)


@pytest.mark.parametrize("count", [2, 5])
def test_a_batch_of_n_gives_what_n_singles_give(
    backend: Backend, known_labels: Draw, count: int
) -> None:
    images = np.stack([image_of(known_labels(seed)) for seed in range(count)])
    singles = np.concatenate([backend.infer(image[None]) for image in images])
    batch = backend.infer(images)
    assert batch.shape == (count, *NETWORK)
    assert np.array_equal(batch, singles)


def test_an_answer_stays_as_it_is_when_the_next_one_comes(
    backend: Backend, known_labels: Draw
) -> None:
    first = backend.infer(image_of(known_labels(1))[None])
    backend.infer(image_of(known_labels(2))[None])
    assert np.array_equal(first[0], known_labels(1))


def test_other_shapes_and_types_are_refused(backend: Backend) -> None:
    shapes = [NETWORK, (1, *NETWORK), (1, 2, *NETWORK), (1, 1, 123, 122, 91)]
    images = [np.zeros(shape, np.float32) for shape in shapes]
    images += [np.zeros((1, 1, *NETWORK), dtype) for dtype in (np.float64, np.uint8)]
    for wrong in images:
        with pytest.raises(ValueError, match="expected float32 images of shape"):
            backend.infer(wrong)


def test_the_callers_images_may_be_read_only_or_not_contiguous_and_stay_as_they_are(
    backend: Backend, known_labels: Draw
) -> None:
    images = image_of(known_labels(3))[None]
    copy = images.copy()
    images.setflags(write=False)
    assert np.array_equal(backend.infer(images)[0], known_labels(3))
    assert np.array_equal(images, copy)
    images = np.asfortranarray(image_of(known_labels(4))[None])
    assert not images.flags.c_contiguous
    assert np.array_equal(backend.infer(images)[0], known_labels(4))


def test_details_and_spec_say_how_the_model_is_run(
    backend: Backend, request: Any, model: Model
) -> None:
    name, device, precision = request.node.callspec.params["backend"]
    assert backend.name == name
    assert (device, backend.details["device"]) == ("cpu", "CPU")
    assert {"library", "device", "precision", "threads"} <= backend.details.keys()
    assert backend.details["precision"] == precision
    assert backend.details["threads"] == "1"
    assert backend.details["library"].startswith(f"{BACKENDS[name].package} ")
    assert backend.spec == model.spec


@pytest.mark.skipif("openvino" not in INSTALLED, reason="openvino is not installed")
@pytest.mark.parametrize(
    ("amx", "verification", "expected"),
    [
        (False, {"openvino bf16": {"passed": True}}, "fp32"),
        (True, {}, "fp32"),
        (True, {"openvino bf16": {"not_verified": "no such CPU"}}, "fp32"),
        (True, {"openvino bf16": {"passed": False}}, "fp32"),
        (True, {"openvino bf16": {"passed": True}}, "bf16"),
    ],
)
def test_openvino_computes_in_bf16_by_itself_only_where_the_model_was_verified_in_it(
    monkeypatch: pytest.MonkeyPatch,
    model: Model,
    amx: bool,
    verification: dict[str, Any],
    expected: str,
) -> None:
    """The CPU must have AMX as well."""
    found = []
    module = importlib.import_module("neurobento.backends.openvino")
    monkeypatch.setattr(module, "_has_amx", lambda: amx)
    monkeypatch.setattr(module, "_require_precision", lambda _, name: found.append(name))
    spec = dataclasses.replace(model.spec, verification=verification)
    open_backend(dataclasses.replace(model, spec=spec), "openvino", threads=1).close()
    assert found == [expected]
