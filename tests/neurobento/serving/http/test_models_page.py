"""`GET /v1/models` says what the specs say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from neurobento.files import file_sha256
from neurobento.serving.http.models_page import models_app
from neurobento.spec import ModelSpec


@pytest.fixture(scope="module")
def spec(known_model: Path) -> ModelSpec:
    spec = ModelSpec.read(known_model / "spec.json")
    return ModelSpec(**{**spec.__dict__, "metrics": {"cohort": {"mean": 0.75}}})


def ask(specs: list[ModelSpec], method: str = "GET", path: str = "/models") -> Any:
    async def send() -> Any:
        transport = httpx.ASGITransport(models_app(specs))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path)

    return asyncio.run(send())


def test_a_model_is_described_by_its_spec(spec: ModelSpec, known_model: Path) -> None:
    assert ask([spec]).json() == {
        "models": [
            {
                "name": "regions",
                "version": "0.0.1",
                "task": "parcellation",
                "network": "compact",
                "onnx_sha256": file_sha256(known_model / "model.onnx"),
                "input_shape": [1, 91, 122, 123],
                "output_shape": [91, 122, 123],
                "inputs": {"image": {"shape": [1, 91, 122, 123], "dtype": "float32"}},
                "outputs": {"labels": {"shape": [91, 122, 123], "dtype": "uint8"}},
                "classes": 117,
                "detection": {},
                "metrics": {"cohort": {"mean": 0.75}},
            }
        ]
    }


def test_a_model_for_anomalies_says_what_it_gives_and_what_its_threshold_means() -> None:
    hashes = {"onnx_sha256": "0" * 64, "checkpoint_sha256": "0" * 64, "opset": 18}
    detection = {"threshold": 0.25, "false_positive_rate": 0.05}
    spec = ModelSpec.of_task(
        "anomaly", name="a", version="1.0.0", network="n", detection=detection, **hashes
    )
    (model,) = ask([spec]).json()["models"]
    assert (model["task"], model["classes"], model["detection"]) == ("anomaly", 0, detection)
    assert model["inputs"] == {"image": {"shape": [1, 128, 128], "dtype": "float32"}}
    assert model["outputs"] == {
        "score": {"shape": [], "dtype": "float32"},
        "error_map": {"shape": [128, 128], "dtype": "float32"},
    }


def test_models_keep_their_order_and_other_methods_and_paths_are_refused(spec: ModelSpec) -> None:
    other = ModelSpec(**{**spec.__dict__, "name": "unet"})
    names = [model["name"] for model in ask([other, spec]).json()["models"]]
    assert names == ["unet", "regions"]
    assert ask([]).json() == {"models": []}
    assert ask([spec], "POST").status_code == 405
    assert ask([spec], path="/model").status_code == 404
