"""The PyTorch backend loads the right weights and computes in the right precision."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurobento.backends import open_backend
from neurobento.backends.pytorch import open_weights
from neurobento.errors import BackendUnavailable, ConfigError, SpecMismatch
from neurobento.files import file_sha256
from neurobento.registry import Model, open_model

IMAGES = np.zeros((2, 1, 91, 122, 123), np.float32)


class Recording(torch.nn.Module):
    """A convolution that records its data type and its batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv3d(1, 2, 1)
        self.seen: list[tuple[torch.dtype, int, int]] = []

    def labels(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.convolution(image)
        self.seen.append((logits.dtype, len(image), torch.get_num_threads()))
        return logits.argmax(dim=1).to(torch.uint8)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Recording:
    """The network that every recipe builds."""
    built = Recording()
    monkeypatch.setattr("neurobento.networks.weights.build", lambda _: built)
    return built


@pytest.fixture
def model(known_model: Path, tmp_path: Path, network: Recording) -> Model:
    """The known model with weights of another network."""
    folder = tmp_path / "compact"
    shutil.copytree(known_model, folder)
    values = {"format": 1, "recipe": {"network": "any"}, "average": network.state_dict()}
    torch.save(values, folder / "weights.pt")
    spec = dataclasses.replace(
        open_model(folder).spec, weights_sha256=file_sha256(folder / "weights.pt")
    )
    return Model(folder, spec)


def test_weights_are_found_beside_the_onnx_file_and_have_to_be_the_specs(model: Model) -> None:
    weights = model.folder / "weights.pt"
    assert open_weights(model) == weights
    with weights.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(SpecMismatch, match=f"SHA-256 {model.spec.weights_sha256}"):
        open_backend(model, "pytorch", device="cpu")
    weights.unlink()
    for name in ("pytorch", "pytorch-compiled"):
        with pytest.raises(BackendUnavailable, match=r"weights\.pt beside the ONNX file"):
            open_backend(model, name, device="cpu")


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)],
)
def test_convolutions_compute_in_the_precision(
    model: Model, network: Recording, precision: str, expected: torch.dtype
) -> None:
    opened = open_backend(model, "pytorch", device="cpu", precision=precision)
    assert opened.infer(IMAGES[:1]).dtype == np.uint8
    assert network.seen[0][0] == expected
    assert opened.details["precision"] == ("fp32" if precision == "auto" else precision)


def test_a_cpu_takes_scan_by_scan(model: Model, network: Recording) -> None:
    """The logits of several scans would not fit into memory."""
    open_backend(model, "pytorch", device="cpu").infer(IMAGES)
    assert [count for _, count, _ in network.seen] == [1, 1]


def test_threads_are_as_many_as_were_asked_for(model: Model, network: Recording) -> None:
    before = torch.get_num_threads()
    try:
        opened = open_backend(model, "pytorch", device="cpu", threads=before + 1)
        opened.infer(IMAGES[:1])
    finally:
        torch.set_num_threads(before)
    assert network.seen[0][2] == before + 1
    assert opened.details["threads"] == str(before + 1)


def test_a_pytorch_that_sees_no_gpu_or_no_compiler_says_so(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    version = torch.__version__.split("+")[0]
    for name in ("pytorch", "pytorch-compiled"):
        with pytest.raises(BackendUnavailable, match=f"found torch {version}"):
            open_backend(model, name, device="cuda")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BackendUnavailable, match="a C"):
        open_backend(model, "pytorch-compiled", device="cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_real_gpu_takes_the_whole_batch_in_the_precision(
    model: Model, network: Any, precision: str
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    opened = open_backend(model, "pytorch", device="cuda", precision=precision)
    assert opened.infer(IMAGES).shape == (2, 91, 122, 123)
    expected = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    assert network.seen[0][:2] == (expected[precision], 2)
    opened.close()


def test_without_monai_the_error_names_the_extra(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    monkeypatch.setattr(
        "neurobento.networks.weights.build", lambda _: importlib.import_module("monai.networks")
    )
    with pytest.raises(ConfigError, match=r"no package monai.*neurobento\[export\]"):
        open_backend(model, "pytorch", device="cpu")
