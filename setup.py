"""Build the distribution: default models go into the wheel, and a client needs no core.

Everything else about the project is in pyproject.toml. docs/decisions/0015-one-wheel.md says why
the requirements carry a marker.
"""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))
from neurobento.default_models import DEFAULT_MODELS  # noqa: E402

MODEL_FILES = ("model.onnx", "spec.json")
CLIENT_EXTRAS = ("client", "client-grpc")
NOT_EXTRAS = ("core", "bento")


def requirements(name: str) -> list[str]:
    """Return the requirements in a file of requirements/."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def core() -> list[str]:
    """Return the core's requirements, which do not apply where only a client was asked for."""
    marker = " and ".join(f'extra != "{name}"' for name in CLIENT_EXTRAS)
    return [f"{requirement}; {marker}" for requirement in requirements("core")]


def extras() -> dict[str, list[str]]:
    """Return the extras; each that is not a client's states the core too, beside a client's."""
    names = {path.stem for path in (ROOT / "requirements").glob("*.txt")} - {*NOT_EXTRAS}
    return {
        name: requirements(name) + ([] if name in CLIENT_EXTRAS else requirements("core"))
        for name in sorted(names)
    }


class BuildWithModels(build_py):
    """Copies the default models to neurobento/models, in the build folder only."""

    def _model_files(self) -> list[Path]:
        folders = [Path("models", name) for name in DEFAULT_MODELS]
        return [folder / name for folder in folders for name in MODEL_FILES]

    def run(self) -> None:
        """Build the package, then add the models; an editable install reads the clone's own."""
        super().run()
        if self.editable_mode:
            return
        for file in self._model_files():
            target = Path(self.build_lib, "neurobento", file)
            self.mkpath(str(target.parent))
            self.copy_file(str(ROOT / file), str(target))

    def get_source_files(self) -> list[str]:
        """Return what the source distribution needs, so that a wheel can be built from it."""
        return [*super().get_source_files(), *map(str, self._model_files())]


setup(
    install_requires=core(),
    extras_require=extras(),
    cmdclass={"build_py": BuildWithModels},
)
