"""The scripts parse, run, and refuse options that they do not know."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted([*(ROOT / "scripts").iterdir(), ROOT / ".ci/run"])
PREDICT = ROOT / "scripts/predict.sh"


def run(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_every_documented_script_exists() -> None:
    names = {path.name for path in SCRIPTS}
    assert {"serve", "test", "check", "predict.sh", "gpu_benchmark", "run"} <= names
    assert {"deploy-check", "containerize-check"} <= names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_can_be_run_parses_and_stops_at_the_first_error(
    script: Path, tmp_path: Path
) -> None:
    assert script.stat().st_mode & stat.S_IXUSR
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in script.read_text()
    done = run(tmp_path, "bash", "-n", str(script))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=" ".join)
def test_the_gpu_benchmark_needs_an_output_folder(options: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, str(ROOT / "scripts/gpu_benchmark"), *options, PYTHON="false")
    assert done.returncode != 0
    assert "usage: scripts/gpu_benchmark" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-i", "scan.nii"],
        ["-o", "out.nii.gz"],
        ["-i"],
        ["-i", "scan.nii", "-o", "out.nii.gz", "--fast"],
        ["-i", "scan.nii", "-o", "out.nii.gz", "-model"],
    ],
    ids=" ".join,
)
def test_wrong_options_are_a_usage_error(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_text("scan")
    done = run(tmp_path, str(PREDICT), *options)
    assert done.returncode == 2
    assert "usage:" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]


def test_a_missing_scan_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, str(PREDICT), "-i", "none.nii", "-o", "out.nii.gz")
    assert done.returncode == 1
    assert "no such file: none.nii" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_service_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_text("scan")
    url = "http://127.0.0.1:9"  # the discard port: nothing listens there
    options = ["-i", "scan.nii", "-o", "out.nii.gz"]
    done = run(tmp_path, str(PREDICT), *options, NEUROBENTO_URL=url)
    assert done.returncode != 0
    assert "curl" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]


def test_serve_refuses_unknown_options_before_it_installs_anything(tmp_path: Path) -> None:
    done = run(tmp_path, str(ROOT / "scripts/serve"), "--fast")
    assert done.returncode == 2
    assert "usage:" in done.stderr


@pytest.mark.parametrize("options", [["--fast"], ["--level", "full"]], ids=" ".join)
def test_the_container_check_refuses_unknown_options_before_it_installs_anything(
    options: list[str], tmp_path: Path
) -> None:
    done = run(tmp_path, str(ROOT / "scripts/containerize-check"), *options, TMPDIR=str(tmp_path))
    assert done.returncode == 2
    assert "scripts/containerize-check [--work DIR]" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    os.environ.get("NEUROBENTO_TEST_CONTAINER") != "1",
    reason="builds an image as root, which takes minutes: set NEUROBENTO_TEST_CONTAINER=1",
)
def test_the_image_has_no_privileges_and_answers_like_the_cli(tmp_path: Path) -> None:
    command = [str(ROOT / "scripts/containerize-check"), "-o", str(tmp_path / "container.json")]
    subprocess.run(command, check=True, timeout=3500)
    assert json.loads((tmp_path / "container.json").read_text())["wrong"] == []
