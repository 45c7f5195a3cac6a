"""Processes that train one network together, on gloo as torchrun starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neurobento.networks import PRESETS
from tests.training.tiny import CPU, labels_of
from training.loop.checkpoint import read_checkpoint
from training.loop.processes import ALONE, Processes, join_processes
from training.loop.run import Run
from training.parcellation.dataset import Pair, load_pairs, open_pairs, write_pack
from training.parcellation.recipe import read_recipe
from training.parcellation.task import ParcellationTask

SCRIPT = Path(__file__).with_name("train_together.py")
SHAPE, BLOCKS = (13, 14, 12), (7, 7, 6)
TRAIN = ["s0", "s1", "s2", "s3"]
RECIPE = """
network = "unet"
[data]
train = ["s*"]
validation = ["v*"]
[optimisation]
steps = 4
batch_size = 2
warmup_steps = 2
precision = "fp32"
validate_epochs = 1
"""


def pair(name: str, seed: int) -> Pair:
    labels = torch.from_numpy(labels_of(SHAPE, seed, width=5))
    noise = torch.randint(40, SHAPE, generator=torch.Generator().manual_seed(seed))
    image = (labels * 60 + noise)[None].byte()
    return Pair(name, image, labels, np.eye(4), torch.zeros(3, *BLOCKS))


def weights(path: Path) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = torch.load(path, weights_only=True)
    return loaded


def names(folder: Path) -> set[str]:
    return {path.name.split(".")[0] for path in folder.iterdir()}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have run `train_together.py`."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "recipe.toml").write_text(RECIPE)
    scans = [pair(name, seed) for seed, name in enumerate([*TRAIN, "v0"])]
    write_pack(folder / "pairs.npz", scans)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    search_path = os.pathsep.join([str(SCRIPT.parents[3]), os.environ["PYTHONPATH"]])
    inputs = [str(folder / "recipe.toml"), str(folder / "pairs.npz"), str(folder)]
    done = subprocess.run(
        [sys.executable, *torchrun, str(SCRIPT), *inputs],
        cwd=SCRIPT.parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search_path},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def alone(together: Path) -> Any:
    """The same run in this process."""
    source = open_pairs(together / "pairs.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "unet", "tests.training.tiny")
        task = ParcellationTask(
            read_recipe(together / "recipe.toml"),
            load_pairs(source, TRAIN),
            load_pairs(source, ["v0"]),
            CPU,
        )
        run = Run(task, together / "alone", CPU)
        run.train()
    return run


@pytest.mark.slow
def test_two_processes_end_where_one_does(together: Path, alone: Run) -> None:
    both = weights(together / "straight_rank0.pt")
    for name, weight in alone.network.state_dict().items():
        torch.testing.assert_close(both[name], weight, atol=1e-5, rtol=1e-5)
    moved = read_checkpoint(together / "straight0" / "last.pt")
    assert moved.step == alone.step == 4
    assert moved.best == pytest.approx(alone.best, abs=1e-3)


@pytest.mark.slow
def test_every_process_ends_at_the_same_weights_and_only_the_first_writes(together: Path) -> None:
    first, second = (weights(together / f"straight_rank{rank}.pt") for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert names(together / "straight0") == {"last", "best", "log", "curves", "events"}
    assert names(together / "straight1") == set()


@pytest.mark.slow
def test_the_first_processs_clock_stops_all(together: Path) -> None:
    """The other's stands still."""
    assert read_checkpoint(together / "stopped.pt").step == 2


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_go_on_along_the_same_trajectory(together: Path, rank: int) -> None:
    straight, parts = (weights(together / f"{run}_rank{rank}.pt") for run in ("straight", "parts"))
    assert straight.keys() == parts.keys()
    assert all(torch.equal(straight[name], parts[name]) for name in straight)
    assert read_checkpoint(together / "parts" / "last.pt").step == 4


def test_alone_there_is_nothing_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (None, "1"):
        if count is None:
            monkeypatch.delenv("WORLD_SIZE", raising=False)
        else:
            monkeypatch.setenv("WORLD_SIZE", count)
        with join_processes("cuda:3") as joined:
            assert joined == (ALONE, "cuda:3")
        assert not torch.distributed.is_initialized()


def test_the_process_of_rank_zero_is_the_first_and_alone_it_keeps_its_value() -> None:
    assert (ALONE.rank, ALONE.count) == (0, 1)
    assert [Processes(rank, 3).first for rank in range(3)] == [True, False, False]
    assert ALONE.broadcast(0.25, torch.device("cpu")) == 0.25
