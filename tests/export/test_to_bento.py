"""Models in the BentoML model store, each once."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from export.to_bento import SBOM
from neurobento.default_models import DEFAULT_MODELS
from neurobento.registry import list_specs
from neurobento.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[2]

TWICE = """
import sys
from pathlib import Path
from export.to_bento import put_into_store
from neurobento.default_models import BRAIN_MODEL, DEFAULT_MODELS
from neurobento.registry import open_model

model = open_model(Path(sys.argv[1]))
print(put_into_store(model), put_into_store(model))
"""


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with its own model store; BentoML reads the folder at import."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def stored(home: Path, spec: ModelSpec) -> Path:
    return home / "models" / "neurobento-regions" / spec.onnx_sha256[:16]


def test_the_store_holds_both_files_once_under_the_graphs_hash(
    known_model: Path, tmp_path: Path
) -> None:
    done = run(tmp_path, "-c", TWICE, str(known_model))
    assert done.stdout == "True False\n", done.stderr
    spec = ModelSpec.read(known_model / "spec.json")
    for name in ("model.onnx", "spec.json"):
        assert (stored(tmp_path, spec) / name).read_bytes() == (known_model / name).read_bytes()


def test_a_new_spec_or_int8_form_replaces_what_is_stored(known_model: Path, tmp_path: Path) -> None:
    """The tag does not depend on them."""
    folder = tmp_path / "models" / "regions"
    shutil.copytree(known_model, folder)
    spec = ModelSpec.read(folder / "spec.json")

    def put() -> str:
        done = run(tmp_path, "-m", "export.to_bento", "--models", str(folder.parent))
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert put() == f"neurobento-regions:{spec.onnx_sha256[:16]}: put into the store\n"
    dataclasses.replace(spec, metrics={"new": {"mean": 0.9}}).write(folder / "spec.json")
    (folder / "model_int8.onnx").write_bytes(b"int8")
    (folder / "atlas.npz").write_bytes(b"atlas")
    assert "put into the store" in put()
    for name in ("spec.json", "model_int8.onnx", "atlas.npz"):
        assert (stored(tmp_path, spec) / name).read_bytes() == (folder / name).read_bytes()
    assert "already there" in put()


def test_a_changed_model_is_not_stored(known_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "regions"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_bytes((known_model / "spec.json").read_bytes())
    (folder / "model.onnx").write_bytes((known_model / "model.onnx").read_bytes() + b"\0")
    home = tmp_path / "home"
    done = run(home, "-m", "export.to_bento", "--models", str(folder.parent))
    assert done.returncode != 0
    assert "SpecMismatch" in done.stderr or "SHA-256" in done.stderr
    assert not list(home.glob("models/*/*"))


@pytest.mark.slow
def test_a_bento_lists_its_packages_and_models(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "export.to_bento", "--build")
    assert done.returncode == 0, done.stderr
    (bento,) = [path for path in (tmp_path / "bentos" / "neurobento").iterdir() if path.is_dir()]
    bill = json.loads((bento / SBOM).read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    found = {(each["type"], each["name"], each["version"]) for each in bill["components"]}
    installed = (bento / "env" / "python" / "requirements.txt").read_text().splitlines()
    locked = [line.split("==") for line in installed if "==" in line]
    libraries = {each for each in found if each[0] == "library"}
    assert libraries == {("library", name, version) for name, version in locked}
    # the default models have runners, and the brain finder serves them all
    specs = [spec for spec in list_specs() if spec.name in DEFAULT_MODELS]
    graphs = {spec.onnx_sha256 for spec in specs} | {spec.int8_sha256 for spec in specs} - {""}
    models = [each for each in bill["components"] if each["type"] == "machine-learning-model"]
    assert {each["hashes"][0]["content"] for each in models} == graphs
    stored = {path.parent.name for path in bento.glob("models/*/*/model.onnx")}
    assert not stored or stored == {spec.onnx_sha256[:16] for spec in specs}
    described = {path.parent.name for path in (bento / "src" / "models").glob("*/spec.json")}
    assert {spec.name for spec in specs} <= described
    direct = (ROOT / "requirements" / "bento.txt").read_text().lower().replace("_", "-")
    pinned = {tuple(line.split("==")) for line in direct.splitlines() if line[0] != "#"}
    assert pinned <= {(name, version) for _, name, version in found}
