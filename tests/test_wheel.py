"""The wheels hold the package, the default models and their requirements, and nothing else.

`scripts/check-wheel` installs them in fresh environments and uses them there.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from neurobento.default_models import DEFAULT_MODELS
from neurobento.registry import models_folder

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
FOLDERS = ("neurobento", "requirements", "wheels")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheels are made of: building leaves files beside the source."""
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(ROOT / name, copy / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in DEFAULT_MODELS:
        shutil.copytree(ROOT / "models" / name, copy / "models" / name)
    return copy


def built(source: Path, *options: str) -> zipfile.ZipFile:
    """The wheel that `python -m build` makes of a folder."""
    output = source / "dist"
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", output]
    subprocess.run([*command, *options, source], check=True, capture_output=True, timeout=200)
    (wheel,) = output.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def wheel(source: Path) -> zipfile.ZipFile:
    """By way of the source distribution, which has to hold all that is needed."""
    return built(source)


@pytest.fixture(scope="module")
def client(source: Path) -> zipfile.ZipFile:
    return built(source / "wheels" / "client", "--wheel")


def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return message_from_bytes(wheel.read(name))


def requirements(wheel: zipfile.ZipFile, extra: str = "") -> set[str]:
    """Names of the packages that it requires, always or with an extra."""
    needs = [str(need) for need in metadata(wheel).get_all("Requires-Dist", [])]
    return {
        re.split(r"[^\w-]", need)[0]
        for need in needs
        if (f'extra == "{extra}"' in need if extra else "extra ==" not in need)
    }


def stated(name: str) -> set[str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return {re.split(r"[^\w-]", line)[0] for line in lines if line and not line.startswith("#")}


def modules(folder: Path) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in folder.rglob("*.py")}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_repositorys_default_models(
    wheel: zipfile.ZipFile,
) -> None:
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    tables = {str(path.relative_to(ROOT)) for path in (ROOT / "neurobento").rglob("*.tsv")}
    models = {
        f"neurobento/models/{name}/{file}"
        for name in DEFAULT_MODELS
        for file in ("atlas.npz", "model.onnx", "spec.json")
        if (ROOT / "models" / name / file).is_file()
    }
    assert "neurobento/models/regions/atlas.npz" in models
    assert files == modules(ROOT / "neurobento") | tables | models
    for name in DEFAULT_MODELS:
        content = wheel.read(f"neurobento/models/{name}/model.onnx")
        assert content == (ROOT / "models" / name / "model.onnx").read_bytes()


@pytest.mark.slow
def test_the_wheel_has_at_most_60_mb_and_requires_the_core(wheel: zipfile.ZipFile) -> None:
    assert Path(str(wheel.filename)).stat().st_size <= 60_000_000
    assert requirements(wheel) == stated("core")
    for extra in ("client", "grpc", "cohort", "serving"):
        assert requirements(wheel, extra) == stated(extra)


@pytest.mark.slow
def test_the_clients_wheel_holds_the_client_and_requires_no_numpy(
    wheel: zipfile.ZipFile, client: zipfile.ZipFile
) -> None:
    files = {name for name in client.namelist() if ".dist-info/" not in name}
    assert modules(ROOT / "neurobento" / "client") <= files
    assert {name: client.read(name) for name in files} == {name: wheel.read(name) for name in files}
    assert requirements(client) == stated("client") == {"httpx"}
    assert requirements(client, "grpc") == stated("grpc")
    assert metadata(client)["Version"] == metadata(wheel)["Version"]


def test_in_a_clone_the_models_are_the_repositorys() -> None:
    assert models_folder() == ROOT / "models"
    assert all((models_folder() / name / "model.onnx").is_file() for name in DEFAULT_MODELS)
