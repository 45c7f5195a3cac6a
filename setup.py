"""Put the default models into the wheel; everything else is in pyproject.toml."""

import json
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))
from neurobento.default_models import DEFAULT_MODELS  # noqa: E402


def model_files(name: str) -> list[Path]:
    """Return a model's files, of which some models have an atlas."""
    folder = Path("models", name)
    spec = json.loads((ROOT / folder / "spec.json").read_text())
    atlas = ["atlas.npz"] if spec.get("atlas_sha256") else []
    return [folder / file for file in ("model.onnx", "spec.json", *atlas)]


MODEL_FILES = [file for name in DEFAULT_MODELS for file in model_files(name)]


class BuildWithModels(build_py):
    """Copies the default models to neurobento/models, in the build folder only."""

    def run(self) -> None:
        """Build the package, then add the models; an editable install reads the clone's own."""
        super().run()
        if self.editable_mode:
            return
        for file in MODEL_FILES:
            target = Path(self.build_lib, "neurobento", file)
            self.mkpath(str(target.parent))
            self.copy_file(str(ROOT / file), str(target))

    def get_source_files(self) -> list[str]:
        """Return what the source distribution needs, so that a wheel can be built from it."""
        return [*super().get_source_files(), *map(str, MODEL_FILES)]


setup(cmdclass={"build_py": BuildWithModels})
