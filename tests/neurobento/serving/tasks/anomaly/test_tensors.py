"""Anomalies by the Open Inference Protocol, without its transports."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobento.errors import ConfigError, EmptyScan, NeuroBentoError, NotOnNetworkGrid
from neurobento.serving.inference_protocol.protocol import InferRequest, OpenInference
from neurobento.serving.inference_protocol.tensors import Tensor
from neurobento.serving.request import RequestContext
from neurobento.serving.tasks.anomaly.responses import detection_facts, draw_overlay
from neurobento.serving.tasks.anomaly.tensors import MAX_IMAGES, AnomalyTensors
from tests.neurobento.anomaly.known_anomaly import known_spec
from tests.neurobento.imaging.slices.files import SHAPE
from tests.neurobento.serving.fakes import FACTS, FakeAnomalyHandler

CONTENT = b"the bytes of a slice"
SLICE = Tensor.from_bytes("slice", CONTENT)
GRID = (128, 128)


@pytest.fixture
def handler() -> FakeAnomalyHandler:
    return FakeAnomalyHandler()


@pytest.fixture
def inference(handler: FakeAnomalyHandler) -> OpenInference:
    return OpenInference([known_spec()], {"anomaly": AnomalyTensors(handler)})  # type: ignore[arg-type]


@pytest.fixture
def ask(inference: OpenInference) -> Any:
    def ask(*inputs: Tensor, **asked: Any) -> dict[str, Tensor]:
        request = InferRequest("anomaly", "", inputs, **asked)
        found = asyncio.run(inference.infer(request, RequestContext("r-1", "grpc", 60.0)))
        return {tensor.name: tensor for tensor in found}

    return ask


def images(count: int = 1) -> Any:
    return np.random.default_rng(count).random((count, 1, *GRID), dtype=np.float32)


def image_tensor(values: Any) -> Tensor:
    return Tensor.from_array("image", values)


def test_metadata_say_what_a_model_takes_and_gives(inference: OpenInference, ask: Any) -> None:
    found = inference.metadata("anomaly")
    inputs = {each["name"]: (each["datatype"], each["shape"]) for each in found["inputs"]}
    assert inputs == {"slice": ("BYTES", [1]), "image": ("FP32", [-1, 1, *GRID])}
    described = {each["name"]: each for each in found["outputs"]}
    of_slice, of_image = ask(SLICE), ask(image_tensor(images(2)))
    assert described.keys() == of_slice.keys() | of_image.keys()
    for name, tensor in [*of_slice.items(), *of_image.items()]:
        assert described[name]["datatype"] == tensor.datatype
        shape = described[name]["shape"]
        assert len(shape) == len(tensor.shape)
        assert all(n in (-1, m) for n, m in zip(shape, tensor.shape, strict=True))


def test_a_slice_reaches_the_handler_and_leaves_no_file(
    handler: FakeAnomalyHandler, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ask(SLICE)
    handler.error = EmptyScan(expected="a", found="b", remedy="C.")
    with pytest.raises(EmptyScan):
        ask(SLICE)
    assert handler.contents == [CONTENT] * 2
    assert list(tmp_path.iterdir()) == []


def test_a_slices_tensors_are_what_was_found(handler: FakeAnomalyHandler, ask: Any) -> None:
    found, truth = ask(SLICE), handler.detection
    assert found["score"].values == pytest.approx([truth.anomaly.score])
    assert np.array_equal(found["error_map"].values, truth.error_map[None])
    assert found["heat_map"].shape == SHAPE
    assert np.array_equal(found["heat_map"].values, truth.anomaly.heat_map)
    assert json.loads(found["run"].values[0]) == json.loads(json.dumps(detection_facts(truth)))
    assert found["overlay"].values == [draw_overlay(truth)]


@pytest.mark.parametrize("count", [1, 3])
def test_images_come_back_in_their_order(handler: FakeAnomalyHandler, ask: Any, count: int) -> None:
    values = images(count)
    found = ask(image_tensor(values))
    assert np.array_equal(found["score"].values, values.mean(axis=(1, 2, 3)))
    assert np.array_equal(found["error_map"].values, values[:, 0])
    assert json.loads(found["run"].values[0]) == FACTS
    assert handler.counts == [count]


@pytest.mark.parametrize(
    ("tensor", "wanted"), [(SLICE, "labels"), (image_tensor(images()), "heat_map")]
)
def test_an_output_that_an_input_does_not_give_is_refused_before_any_work(
    tensor: Tensor, wanted: str, handler: FakeAnomalyHandler, ask: Any
) -> None:
    with pytest.raises(ConfigError, match="score"):
        ask(tensor, outputs=["score", wanted])
    assert handler.contents == handler.counts == []


def test_only_what_is_wanted_is_made(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = "neurobento.serving.tasks.anomaly.tensors.draw_overlay"
    monkeypatch.setattr(draw, lambda _: pytest.fail("a picture was drawn"))
    assert list(ask(SLICE, outputs=["heat_map", "score"])) == ["heat_map", "score"]


REFUSED: dict[str, tuple[type[NeuroBentoError], tuple[Tensor, ...]]] = {
    "nothing": (ConfigError, ()),
    "both": (ConfigError, (SLICE, image_tensor(images()))),
    "a scan": (ConfigError, (Tensor.from_bytes("scan", CONTENT),)),
    "a slice of numbers": (ConfigError, (Tensor.from_array("slice", np.zeros(1, np.uint8)),)),
    "two slices": (ConfigError, (Tensor("slice", "BYTES", (2,), [b"a", b"b"]),)),
    "no image": (ConfigError, (image_tensor(images()[:0]),)),
    "an image of bytes": (NotOnNetworkGrid, (Tensor("image", "BYTES", (1,), [CONTENT]),)),
    "doubles": (NotOnNetworkGrid, (image_tensor(images().astype(np.float64)),)),
    "no batch": (NotOnNetworkGrid, (image_tensor(images()[0]),)),
    "no channel": (NotOnNetworkGrid, (image_tensor(images()[:, 0]),)),
    "another grid": (NotOnNetworkGrid, (image_tensor(images()[..., 1:]),)),
    "above 1": (ConfigError, (image_tensor(images() + 1),)),
    "not a number": (ConfigError, (image_tensor(images() * np.float32(np.nan)),)),
    "too many": (ConfigError, (image_tensor(images(MAX_IMAGES + 1)),)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_inputs_that_are_not_what_they_should_be_are_refused(
    what: str, handler: FakeAnomalyHandler, ask: Any
) -> None:
    kind, tensors = REFUSED[what]
    right_input = "as `slice`" if what == "an image of bytes" else None
    with pytest.raises(kind, match=right_input):
        ask(*tensors)
    assert handler.contents == handler.counts == []
