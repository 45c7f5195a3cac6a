"""Pack the modules of neurobento that a client imports; neurobento's own wheel holds them too."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

REPOSITORY = Path(__file__).resolve().parents[2]

MODULES = {
    "neurobento": {"__init__", "default_models", "errors", "extras"},
    "neurobento.anomaly": {"__init__", "heat_map_file"},
}
"""Package -> its modules that are packed; of other packages all are."""


class BuildClient(build_py):
    """Leaves out the modules that need the core."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Return package, name and file of each module to pack."""
        found = super().find_package_modules(package, package_dir)
        return [each for each in found if each[1] in MODULES.get(package, {each[1]})]


def requirements(name: str) -> list[str]:
    """Return the requirements in a file of requirements/."""
    lines = (REPOSITORY / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


setup(
    packages=[*MODULES, "neurobento.client", "neurobento.contract"],
    package_dir={"": "../.."},
    install_requires=requirements("client"),
    extras_require={"grpc": requirements("grpc")},
    cmdclass={"build_py": BuildClient},
)
