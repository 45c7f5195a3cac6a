"""How many scans a network's runner takes at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neurobento.networks import PRESETS
from neurobento.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[2]
REPORT = """
import json
import service

limits = {}
for name, attribute in service.RUNNERS.items():
    segment = vars(service.Runners)[attribute].on.apis["segment"]
    limits[name] = segment.max_batch_size if segment.batchable else 1
print(json.dumps(limits))
"""


def limits_of(presets: tuple[str, ...], folder: Path) -> dict[str, int]:
    """Each model's largest batch, of a service for models of these presets."""
    for preset in presets:
        (folder / preset).mkdir()
        spec = ModelSpec(preset, "0.0.1", preset, "0" * 64, "0" * 64, 18)
        spec.write(folder / preset / "spec.json")
    home = folder / "home"
    home.mkdir()
    own = {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    done = subprocess.run(
        [sys.executable, "-c", REPORT],
        cwd=ROOT,
        env={**os.environ, **own, "NEUROBENTO_MODELS": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    limits: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return limits


@pytest.mark.slow
def test_report_as_networks_take_one_scan_at_a_time(tmp_path: Path) -> None:
    """Their logits stand for the whole image at once, so two scans need twice the memory."""
    limits = limits_of(tuple(PRESETS), tmp_path)
    assert limits == {"compact": 8, "atlas_map": 8, "unet": 1, "highresnet": 1}
