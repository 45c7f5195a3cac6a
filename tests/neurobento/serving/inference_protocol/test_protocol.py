"""The Open Inference Protocol without its transports."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from prometheus_client import REGISTRY

from neurobento.errors import (
    ClientGone,
    ConfigError,
    DeadlineExceeded,
    EmptyScan,
    ModelNotFound,
    NeuroBentoError,
    NotOnNetworkGrid,
)
from neurobento.serving.inference_protocol.protocol import InferRequest
from neurobento.serving.inference_protocol.tensors import DTYPES, Tensor
from neurobento.serving.request import RequestContext
from tests.neurobento.serving.fakes import (
    CONTENT,
    FACTS,
    NATIVE,
    NATIVE_SHAPE,
    NETWORK,
    FakeHandler,
    inference_of,
)

GRID = (91, 122, 123)
SCAN = Tensor.from_bytes("scan", CONTENT)


@pytest.fixture
def labels(known_labels: Callable[[int], Any]) -> Any:
    return known_labels(41)


@pytest.fixture
def handler(labels: Any) -> FakeHandler:
    return FakeHandler(labels)


@pytest.fixture
def ask(handler: FakeHandler) -> Callable[..., dict[str, Tensor]]:
    """Infers; the answer's tensors by name."""

    def ask(*inputs: Tensor, **asked: Any) -> dict[str, Tensor]:
        call = RequestContext("r-1", "grpc", 60.0)
        request = InferRequest(**{"model": "regions", "version": "", "inputs": inputs, **asked})
        found = asyncio.run(inference_of(handler).infer(request, call))
        return {tensor.name: tensor for tensor in found}

    return ask


def image(count: int = 1) -> Any:
    """Images on the network grid, each with other labels."""
    values = np.zeros((count, 1, *GRID), np.float32)
    for i, each in enumerate(values):
        each[0, : 10 + i, 5:20, 7:9] = np.float32((i + 1) / 116)
    return values


def image_tensor(values: Any) -> Tensor:
    return Tensor.from_array("image", values)


ARRAYS: dict[str, Any] = {
    name: np.array([[0, 1, 2], [3, 250, 7]]).astype(dtype) for name, dtype in DTYPES.items()
}


@pytest.mark.parametrize("kind", DTYPES)
def test_a_raw_tensor_and_one_by_value_come_back_to_the_bit(kind: str) -> None:
    sent = Tensor.from_array("x", ARRAYS[kind])
    back = Tensor.from_raw("x", kind, sent.shape, sent.raw)
    assert (sent.datatype, back.datatype, back.shape) == (kind, kind, (2, 3))
    assert back.values.dtype == ARRAYS[kind].dtype
    assert np.array_equal(back.values, ARRAYS[kind])
    assert back.raw == sent.raw == ARRAYS[kind].tobytes()
    by_value = Tensor.from_values("x", kind, (2, 3), ARRAYS[kind].ravel().tolist())
    assert by_value.values.dtype == ARRAYS[kind].dtype
    assert by_value.raw == ARRAYS[kind].tobytes()


def test_a_tensor_that_is_not_contiguous_is_sent_in_its_own_order() -> None:
    turned = np.arange(6, dtype=np.int64).reshape(2, 3).T
    assert Tensor.from_array("x", turned).raw == np.array([0, 3, 1, 4, 2, 5]).tobytes()


STRINGS = [b"", b"\x00\xff", b"a" * 70_000]


def test_strings_are_sent_behind_their_lengths() -> None:
    """As NVIDIA's client does it: its own functions are the oracle."""
    from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

    theirs = serialize_byte_tensor(np.array(STRINGS, object)).item()
    ours = Tensor.from_raw("x", "BYTES", (3,), theirs)
    assert ours.values == STRINGS
    assert ours.raw == theirs
    assert deserialize_bytes_tensor(Tensor.from_bytes("x", b"abc").raw).tolist() == [b"abc"]


LIES: dict[str, tuple[str, list[int], bytes]] = {
    "a value too few": ("FP32", [2, 3], bytes(20)),
    "a value too many": ("FP32", [2, 3], bytes(28)),
    "half a value": ("FP32", [2], bytes(6)),
    "no values": ("FP32", [2, 3], b""),
    "another type's size": ("FP64", [2, 3], bytes(24)),
    "a negative size": ("FP32", [-2, -3], bytes(24)),
    "one negative size": ("FP32", [-1], b""),
    "a huge size": ("FP32", [2**62, 2**62], bytes(4)),
    "a huge size beside none": ("FP32", [0, 2**63, 2**63], b""),
    "more axes than there are": ("FP32", [1] * 100, bytes(4)),
    "a type that is not used here": ("FP16", [2], bytes(4)),
    "a type in small letters": ("fp32", [1], bytes(4)),
    "no type": ("", [1], bytes(4)),
    "half a length": ("BYTES", [1], b"\x01\x00"),
    "a string shorter than its length": ("BYTES", [1], struct.pack("<I", 5) + b"abcd"),
    "a string of 4 GiB": ("BYTES", [1], b"\xff\xff\xff\xff" + b"abcd"),
    "something behind the last string": ("BYTES", [1], struct.pack("<I", 1) + b"ab"),
    "more strings than the shape": ("BYTES", [1], 2 * (struct.pack("<I", 1) + b"a")),
    "fewer strings than the shape": ("BYTES", [2], struct.pack("<I", 1) + b"a"),
    "a negative number of strings": ("BYTES", [-1], struct.pack("<I", 1) + b"a"),
}


UNTRUE: dict[str, tuple[str, list[int], list[Any]]] = {
    "too few": ("FP32", [2, 2], [1.0] * 3),
    "too many": ("FP32", [2, 2], [1.0] * 5),
    "a negative size": ("FP32", [-1, -1], [1.0]),
    "words": ("FP32", [1], ["one"]),
    "lists in a flat tensor": ("FP32", [2], [[1.0], [1.0, 2.0]]),
    "an object": ("INT64", [1], [{}]),
    "out of range": ("UINT8", [1], [256]),
    "out of every range": ("INT64", [1], [2**64]),
    "another type": ("FP16", [1], [1.0]),
    "strings, too few": ("BYTES", [2], [b"a"]),
    "a huge size beside none": ("INT64", [0, 2**63, 2**63], []),
}


@pytest.mark.parametrize(
    ("read", "values"),
    [(Tensor.from_raw, v) for v in LIES.values()]
    + [(Tensor.from_values, v) for v in UNTRUE.values()],
    ids=[*LIES, *(f"by value: {lie}" for lie in UNTRUE)],
)
def test_a_tensor_that_lies_is_refused(read: Any, values: Any) -> None:
    with pytest.raises(ConfigError):
        read("x", *values)


def test_a_refusal_repeats_nothing_of_the_tensor() -> None:
    with pytest.raises(ConfigError) as caught:
        Tensor.from_values("JANE", "DOE", [1], ["secret"])
    assert not {"JANE", "DOE", "secret"} & set(str(caught.value).split())


def test_metadata_say_what_a_model_takes_and_gives(handler: FakeHandler, ask: Any) -> None:
    found = inference_of(handler).metadata("regions", "1.2.0")
    assert (found["name"], found["versions"]) == ("regions", ["1.2.0"])
    assert found["platform"]
    inputs = {each["name"]: (each["datatype"], each["shape"]) for each in found["inputs"]}
    assert inputs == {"scan": ("BYTES", [1]), "image": ("FP32", [-1, 1, *GRID])}
    given = ask(SCAN) | ask(image_tensor(image()))
    described = {each["name"]: each for each in found["outputs"]}
    assert described.keys() == given.keys()
    for name, tensor in given.items():
        assert described[name]["datatype"] == tensor.datatype
    for name, tensor in ask(SCAN).items():
        shape = described[name]["shape"]
        assert len(shape) == len(tensor.shape)
        assert all(n in (-1, m) for n, m in zip(shape, tensor.shape, strict=True))


@pytest.mark.parametrize(("model", "version"), [("grand", ""), ("regions", "9"), ("", "")])
def test_a_model_that_is_not_served_is_not_found(
    model: str, version: str, handler: FakeHandler, ask: Any
) -> None:
    inference = inference_of(handler)
    for refused in (
        lambda: inference.spec(model, version),
        lambda: inference.metadata(model, version),
        lambda: ask(SCAN, model=model, version=version),
    ):
        with pytest.raises(ModelNotFound, match=r"regions 1\.2\.0, unet 0\.3\.0"):
            refused()
    assert handler.options == []


@pytest.mark.parametrize("version", ["", "0.3.0"])
def test_the_named_model_answers(version: str, handler: FakeHandler, ask: Any) -> None:
    ask(SCAN, model="unet", version=version)
    ask(image_tensor(image()), model="unet", version=version)
    assert [options.model for options in handler.options] == ["unet", "unet"]


def test_a_scan_reaches_the_handler_and_leaves_no_file(
    handler: FakeHandler, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ask(SCAN)
    assert handler.contents == [CONTENT]
    handler.error = EmptyScan(expected="a", found="b", remedy="C.")
    with pytest.raises(EmptyScan):
        ask(SCAN)
    assert len(handler.contents) == 2
    assert list(tmp_path.iterdir()) == []


def test_parameters_are_those_of_the_form_with_its_defaults(handler: FakeHandler, ask: Any) -> None:
    for parameters in ({"preprocessing": "some"}, {"space": 7}):
        with pytest.raises(ConfigError):
            ask(SCAN, parameters=parameters)
    assert handler.contents == []
    ask(SCAN)
    ask(SCAN, parameters={"preprocessing": "stripped", "space": "network"})
    found = [(options.preprocessing, options.space) for options in handler.options]
    assert found == [("full", "native"), ("stripped", "network")]


@pytest.mark.parametrize(
    ("parameters", "hint"),
    [
        ({"preprocesing": "none"}, "Did you mean `preprocessing`?"),
        ({"Space": "native"}, "Did you mean `space`?"),
        ({"model": "compact"}, "`preprocessing` and `space`"),
        ({"binary_data_size": 4}, "`preprocessing` and `space`"),
        ({"timeout": 1}, "found 'timeout'"),
    ],
)
def test_an_unknown_parameter_is_refused_before_any_work(
    handler: FakeHandler, ask: Any, parameters: dict[str, Any], hint: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(hint)):
        ask(SCAN, parameters={"preprocessing": "none", **parameters})
    assert handler.contents == []


def test_an_image_takes_no_parameters(handler: FakeHandler, ask: Any) -> None:
    """It is on the network's grid already, and its labels stay there."""
    with pytest.raises(ConfigError, match="no parameter"):
        ask(image_tensor(image()), parameters={"preprocessing": "full"})
    assert handler.options == []


def test_native_labels_stand_on_the_scans_own_grid_and_network_labels_on_the_networks(
    handler: FakeHandler, ask: Any, labels: Any
) -> None:
    """The file holds the same labels at the same place."""
    native, network = (ask(SCAN, parameters={"space": space}) for space in ("native", "network"))
    assert native["labels"].shape == NATIVE_SHAPE
    assert np.array_equal(native["labels"].values, handler.parcellation.labels)
    assert native["affine"].values == pytest.approx(NATIVE)
    assert np.array_equal(network["labels"].values, labels)
    assert network["affine"].values == pytest.approx(NETWORK)
    for found in (native, network):
        (content,) = found["dseg"].values
        file = nib.Nifti1Image.from_bytes(gzip.decompress(content))
        assert np.array_equal(np.asarray(file.dataobj), found["labels"].values)
        assert file.affine == pytest.approx(found["affine"].values, abs=1e-5)


def test_the_mask_is_a_file_on_the_scans_own_grid_and_empty_where_there_is_none(
    handler: FakeHandler, ask: Any
) -> None:
    prepared = handler.parcellation.prepared
    assert prepared.brain is not None
    (content,) = ask(SCAN)["mask"].values
    file = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    mask = prepared.brain.on_grid(NATIVE, NATIVE_SHAPE)
    assert mask.any()
    assert np.array_equal(np.asarray(file.dataobj), mask)
    assert file.affine == pytest.approx(NATIVE, abs=1e-5)
    handler.parcellation = replace(handler.parcellation, prepared=replace(prepared, brain=None))
    assert ask(SCAN)["mask"].values == [b""]


def test_volumes_are_voxels_times_their_size_in_both_spaces(ask: Any) -> None:
    native = ask(SCAN)
    voxel_mm3 = 4.0 * 3.5 * 5.0
    counts = np.bincount(native["labels"].values.ravel(), minlength=117)[1:]
    assert native["volumes_mm3"].values == pytest.approx(counts * voxel_mm3)
    # the volumes of a scan are those of its own grid, whatever grid is asked for
    network = ask(SCAN, parameters={"space": "network"})
    assert np.array_equal(network["volumes_mm3"].values, native["volumes_mm3"].values)


def test_the_run_says_which_model_answered(ask: Any) -> None:
    run = json.loads(ask(SCAN)["run"].values[0])
    assert run["backend"] == FACTS["backend"]
    assert run["native_shape"] == list(NATIVE_SHAPE)
    assert json.loads(ask(image_tensor(image()))["run"].values[0])["model"] == FACTS["model"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_images_are_segmented_together_as_each_alone(
    count: int, handler: FakeHandler, ask: Any
) -> None:
    values = image(count)
    found = ask(image_tensor(values))
    assert found["labels"].shape == (count, *GRID)
    assert found["voxels"].shape == (count, 116)
    assert [options.preprocessing for options in handler.options] == ["none"]
    for i in range(count):
        alone = ask(image_tensor(values[i : i + 1]))
        assert np.array_equal(alone["labels"].values[0], found["labels"].values[i])
        assert np.array_equal(alone["voxels"].values[0], found["voxels"].values[i])
        # a box of label i + 1 and nothing else
        assert found["voxels"].values[i][i] == (10 + i) * 15 * 2
        assert found["voxels"].values[i].sum() == (10 + i) * 15 * 2


@pytest.mark.parametrize("wanted", [["labels"], ["run", "affine"], ["dseg", "labels"]])
def test_outputs_come_as_wanted_and_in_that_order(wanted: list[str], handler: FakeHandler) -> None:
    request = InferRequest("regions", "", [SCAN], wanted)
    inference = inference_of(handler)
    found = asyncio.run(inference.infer(request, RequestContext("r-1", "grpc", 60.0)))
    assert [tensor.name for tensor in found] == wanted


IMAGE = image_tensor(image())
TWICE = r"named once; found 1 more than once"
OFTEN = r"named once; found 99999 more than once"


@pytest.mark.parametrize(
    ("tensor", "outputs", "message"),
    [
        (SCAN, ["labels", "voxels"], "labels"),
        (IMAGE, ["labels", "affine"], "labels"),
        (SCAN, ["labels", ""], "labels"),
        (SCAN, ["run", "labels", "labels"], TWICE),
        (IMAGE, ["run", *["labels"] * 100_000], OFTEN),
    ],
    ids=["of images", "of scans", "no name", "twice", "often"],
)
def test_an_output_that_there_is_not_or_twice_is_refused_before_any_work(
    tensor: Tensor, outputs: list[str], message: str, handler: FakeHandler, ask: Any
) -> None:
    with pytest.raises(ConfigError, match=message):
        ask(tensor, outputs=outputs)
    assert handler.options == []


@pytest.fixture
def packing_without_end(ask: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set once packing has begun; it goes on until the test is over."""
    begun, over = threading.Event(), threading.Event()
    # the first span imports for a second or more, longer than the call below may take
    ask(SCAN)

    def pack(*_: Any) -> bytes:
        begun.set()
        over.wait(20)
        return b""

    monkeypatch.setattr("neurobento.serving.tasks.parcellation.tensors.encode_labels", pack)
    yield begun
    over.set()


@pytest.mark.parametrize("kind", [DeadlineExceeded, ClientGone])
def test_packing_is_not_waited_for_beyond_the_call(
    kind: type[NeuroBentoError], packing_without_end: threading.Event, handler: FakeHandler
) -> None:
    inference = inference_of(handler)

    async def infer() -> None:
        call = RequestContext("r-1", "grpc", 1.0 if kind is DeadlineExceeded else 60.0)
        asked = asyncio.ensure_future(inference.infer(InferRequest("regions", "", [SCAN]), call))
        while not (packing_without_end.is_set() or asked.done()):
            await asyncio.sleep(0.01)
        assert packing_without_end.is_set()
        if kind is ClientGone:
            call.abandon()
        await asyncio.wait_for(asked, 5)

    with pytest.raises(kind):
        asyncio.run(infer())


@pytest.mark.parametrize("tensor", [SCAN, image_tensor(image())])
def test_packing_is_a_stage_of_the_metrics(tensor: Tensor, ask: Any) -> None:
    def count() -> float:
        labels = {"stage": "encode", "model": "unet"}
        return REGISTRY.get_sample_value("neurobento_stage_seconds_count", labels) or 0.0

    before = count()
    ask(tensor, model="unet")
    assert count() == before + 1


def changed(value: float) -> Any:
    values = image()
    values[0, 0, 1, 2, 3] = value
    return values


REFUSED: dict[str, tuple[type[NeuroBentoError], tuple[Tensor, ...]]] = {
    "nothing": (ConfigError, ()),
    "two inputs": (ConfigError, (SCAN, SCAN)),
    "both inputs": (ConfigError, (SCAN, image_tensor(image()))),
    "another name": (ConfigError, (Tensor.from_bytes("scans", CONTENT),)),
    "a scan of numbers": (ConfigError, (Tensor.from_array("scan", np.zeros(1, np.uint8)),)),
    "two scans": (ConfigError, (Tensor("scan", "BYTES", (2,), [b"a", b"b"]),)),
    "no scan": (ConfigError, (Tensor("scan", "BYTES", (0,), []),)),
    "no image": (ConfigError, (image_tensor(np.zeros((0, 1, *GRID), np.float32)),)),
    "an image of bytes": (NotOnNetworkGrid, (Tensor("image", "BYTES", (1,), [CONTENT]),)),
    "an image of doubles": (NotOnNetworkGrid, (image_tensor(image().astype(np.float64)),)),
    "an image without a batch": (NotOnNetworkGrid, (image_tensor(image()[0]),)),
    "an image without a channel": (NotOnNetworkGrid, (image_tensor(image()[:, 0]),)),
    "another grid": (NotOnNetworkGrid, (image_tensor(image()[..., :-1]),)),
    "another order of axes": (NotOnNetworkGrid, (image_tensor(image().transpose(0, 1, 4, 3, 2)),)),
    "values above 1": (ConfigError, (image_tensor(changed(1.001)),)),
    "values below 0": (ConfigError, (image_tensor(changed(-0.001)),)),
    "not a number": (ConfigError, (image_tensor(changed(np.nan)),)),
    "infinite": (ConfigError, (image_tensor(changed(np.inf)),)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_inputs_that_are_not_what_they_should_be_are_refused(
    what: str, handler: FakeHandler, ask: Any
) -> None:
    kind, tensors = REFUSED[what]
    with pytest.raises(kind):
        ask(*tensors)
    assert handler.options == []


def test_images_at_the_edges_of_the_range_are_taken(ask: Any) -> None:
    assert ask(image_tensor(changed(1.0)))["labels"].values[0, 1, 2, 3] == 116
