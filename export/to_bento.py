"""Put models into the BentoML model store, each once, and build the bento.

    python -m export.to_bento [--models models] [--build [--extras report_a,tracing]]

A model's tag is its name and the hash of its ONNX file. A bento lists its packages and models, with
their hashes, in `src/sbom.cdx.json` (CycloneDX). `--extras` adds what the image needs besides the
core and the service: `report_a` brings ROBEX, for models that were trained on its brains.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from neurobento.registry import (
    ATLAS_FILE,
    INT8_FILE,
    ONNX_FILE,
    SPEC_FILE,
    Model,
    list_models,
    model_tag,
)

__all__ = ["SBOM", "build", "main", "put_into_store"]

BESIDE_GRAPH = (ATLAS_FILE, INT8_FILE, SPEC_FILE)
"""Files of a model that its tag does not name."""

ROOT = Path(__file__).resolve().parents[1]
SBOM = "src/sbom.cdx.json"
CYCLONEDX = "1.6"


def put_into_store(model: Model) -> bool:
    """Copy a model into the store; return False if it is already there."""
    import bentoml

    # a model without its files is refused here, before a service starts
    model.atlas()
    tag = model_tag(model.spec)
    try:
        stored = bentoml.models.get(tag)
        if _is_current(model, Path(stored.path)):
            return False
        bentoml.models.delete(tag)
    except bentoml.exceptions.NotFound:
        pass
    metadata = {"onnx_sha256": model.spec.onnx_sha256, "version": model.spec.version}
    with bentoml.models.create(tag, metadata=metadata) as stored:
        for name in (ONNX_FILE, *BESIDE_GRAPH):
            if (model.folder / name).is_file():
                shutil.copy(model.folder / name, stored.path_of(name))
    return True


def _is_current(model: Model, stored: Path) -> bool:
    """Return whether what is stored beside the graph is current; the tag names only the graph."""
    names = [name for name in BESIDE_GRAPH if (model.folder / name).is_file()]
    beside = [name for name in BESIDE_GRAPH if (stored / name).is_file()]
    return names == beside and all(
        file_sha256(model.folder / name) == file_sha256(stored / name) for name in names
    )


def build(extras: Sequence[str] = ()) -> tuple[str, Path]:
    """Build a bento of the models to serve, which must be in the store; return tag and folder."""
    import bentoml

    with _bentofile(extras) as bentofile:
        output = _run_module("bentoml", "build", "--bentofile", str(bentofile), "--output", "tag")
    tag = output.strip().splitlines()[-1].removeprefix("__tag__:")
    built = bentoml.bentos.get(tag)
    bento, packed = Path(built.path), {str(model.tag) for model in built.info.all_models}
    packages = bento / "env" / "python" / "requirements.txt"
    options = ["--sv", CYCLONEDX, "--output-reproducible", "-o", "-"]
    sbom = json.loads(_run_module("cyclonedx_py", "requirements", str(packages), *options))
    models = [m for m in list_models() if model_tag(m.spec) in packed or m.spec.task == "brain"]
    sbom["components"] += [part for model in models for part in _components(model)]
    (bento / SBOM).write_text(json.dumps(sbom, indent=1) + "\n")
    return tag, bento


@contextlib.contextmanager
def _bentofile(extras: Sequence[str]) -> Iterator[Path]:
    """Yield bentofile.yaml, or a temporary copy whose packages include the extras'."""
    ours = ROOT / "bentofile.yaml"
    if not extras:
        yield ours
        return
    content = yaml.safe_load(ours.read_text())
    # BentoML reads no requirements outside the repository.
    del content["python"]["requirements_txt"]
    content["python"]["packages"] = _requirements(extras)
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder, ours.name)
        changed.write_text(yaml.safe_dump(content))
        yield changed


def _requirements(extras: Sequence[str]) -> list[str]:
    """Return the image's packages and those of the extras, at the tested versions."""
    pins = {_package(line): line for line in _lines(ROOT / "constraints.txt")}
    wanted = _lines(ROOT / "requirements" / "bento.txt")
    for extra in extras:
        file = ROOT / "requirements" / f"{extra}.txt"
        if not file.is_file():
            raise ConfigError(
                subject="--extras",
                expected="names of extras in pyproject.toml, separated by commas",
                found=repr(extra),
                remedy="Use for example `--extras report_a`.",
            )
        wanted += [pins[_package(line)] for line in _lines(file)]
    return list(dict.fromkeys(wanted))


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and line[0] != "#"]


def _package(requirement: str) -> str:
    """Return a requirement's package in its normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[; ]", requirement)[0]).lower()


def _run_module(*module: str) -> str:
    # A bento holds the specs of models/, even if the service here serves others.
    environment = {name: value for name, value in os.environ.items() if name != "NEUROBENTO_MODELS"}
    done = subprocess.run(
        [sys.executable, "-m", *module],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ConfigError(
            subject=" ".join(module[:2]),
            expected="exit status 0",
            found=f"exit status {done.returncode}: {done.stderr.strip()[-500:]}",
            remedy="See its message; locking the packages' versions needs a package index.",
        )
    return done.stdout


def _components(model: Model) -> list[dict[str, object]]:
    """Return a model's graphs as components, each with its hash."""
    spec = model.spec
    graphs = {spec.name: spec.onnx_sha256, f"{spec.name}-int8": spec.int8_sha256}
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": f"model-{name}",
            "name": name,
            "version": spec.version,
            "hashes": [{"alg": "SHA-256", "content": sha256}],
        }
        for name, sha256 in graphs.items()
        if sha256
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m export.to_bento")
    parser.add_argument("--models", type=Path, help="folder of models")
    parser.add_argument("--build", action="store_true", help="build the bento too")
    parser.add_argument(
        "--extras",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        default=[],
        help="extras of this project to install in the image too, such as report_a",
    )
    args = parser.parse_args(argv)
    if args.build and args.models:
        parser.error("a bento is built from models/: --build excludes --models")
    for model in list_models(args.models):
        done = "put into the store" if put_into_store(model) else "already there"
        print(f"{model_tag(model.spec)}: {done}", flush=True)
    if args.build:
        tag, bento = build(args.extras)
        print(f"{tag}: built; {bento / SBOM} lists its parts")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "export.to_bento"))
