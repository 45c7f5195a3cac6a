"""The command line as a whole: its help."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_help_names_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "neurobento", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    commands = ("parcellate", "anomaly", "cohort", "models", "sample")
    assert all(command in done.stdout for command in commands)


@pytest.mark.parametrize(
    ("command", "option"), [("parcellate", "--url"), ("cohort", "--scheduler")]
)
def test_help_imports_no_heavy_package(command: str, option: str) -> None:
    heavy = {"httpx", "grpc", "tritonclient", "dask", "distributed", "torch", "matplotlib"}
    code = (
        "import sys\nfrom neurobento.cli.main import main\n"
        f"try:\n    main(['{command}', '--help'])\n"
        "except SystemExit:\n    pass\n"
        f"print(*sorted({heavy!r} & {{*sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert option in done.stdout
    assert done.stdout.splitlines()[-1] == ""
