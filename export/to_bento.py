"""Put the models of a folder into the BentoML model store, each once.

    python -m export.to_bento [--models models]

A model's tag is its name and the hash of its ONNX file, so a second run finds
it there, and puts it anew only if its spec or int8 form has changed. The hash is
checked against spec.json first.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from neurobento.command import run
from neurobento.registry import INT8_FILE, ONNX_FILE, SPEC_FILE, Model, list_models, model_tag
from neurobento.spec import file_sha256

__all__ = ["main", "put_into_store"]


def put_into_store(model: Model) -> bool:
    """Copy a model into the store; False where it is there already."""
    import bentoml

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
        for name in (ONNX_FILE, INT8_FILE, SPEC_FILE):
            if (model.folder / name).is_file():
                shutil.copy(model.folder / name, stored.path_of(name))
    return True


def _is_current(model: Model, stored: Path) -> bool:
    """Whether the store holds the spec and the int8 form of now; its tag names the graph alone."""
    names = [name for name in (INT8_FILE, SPEC_FILE) if (model.folder / name).is_file()]
    beside = [name for name in (INT8_FILE, SPEC_FILE) if (stored / name).is_file()]
    return names == beside and all(
        file_sha256(model.folder / name) == file_sha256(stored / name) for name in names
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m export.to_bento")
    parser.add_argument("--models", type=Path, help="folder of models")
    args = parser.parse_args(argv)
    for model in list_models(args.models):
        done = "put into the store" if put_into_store(model) else "there already"
        print(f"{model_tag(model.spec)}: {done}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "export.to_bento"))
