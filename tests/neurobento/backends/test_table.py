"""The table of backends and their configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurobento.backends import BACKENDS, BackendConfig, list_backend_configs


def test_every_config_is_listed_once_and_has_a_name_of_its_own() -> None:
    configs = list_backend_configs()
    assert len({str(config) for config in configs}) == len(set(configs)) == len(configs)
    assert {config.backend for config in configs} == set(BACKENDS)
    for config in configs:
        assert config.precision in BACKENDS[config.backend].precisions[config.device]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (BackendConfig("openvino", "cpu", "bf16"), "openvino bf16"),
        (BackendConfig("onnxruntime", "cpu", "fp32"), "onnxruntime fp32"),
        (BackendConfig("onnxruntime", "cuda", "fp32"), "onnxruntime fp32 cuda"),
        (BackendConfig("tensorrt", "cuda", "fp16"), "tensorrt fp16"),
    ],
)
def test_a_config_is_named_by_its_device_where_there_is_a_choice(
    config: BackendConfig, name: str
) -> None:
    assert str(config) == name


def test_every_extra_that_an_error_names_is_one_of_the_projects() -> None:
    requirements = Path(__file__).resolve().parents[3] / "requirements"
    for entry in BACKENDS.values():
        assert not entry.extra or (requirements / f"{entry.extra}.txt").is_file()
