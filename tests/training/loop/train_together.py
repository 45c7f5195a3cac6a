"""What torchrun starts in test_processes.py: the command on a tiny network, three times.

    torchrun --nproc-per-node 2 tests/training/loop/train_together.py RECIPE PAIRS OUT

OUT/straightN is a whole run, with a folder for each process N; OUT/parts is one
that the first process's clock stops after two steps, then goes on. Every
process leaves its weights as OUT/NAME_rankN.pt.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext
from itertools import count
from types import SimpleNamespace

import torch

import training.loop.run
import training.parcellation.train
from neurobento.networks import PRESETS
from training.loop.processes import join_processes


class Kept(training.loop.run.Run):
    """A run that leaves every process's weights."""

    def train(self, minutes: float | None = None) -> None:
        super().train(minutes)
        assert self.folder is not None
        name = f"{self.folder.name.rstrip('01')}_rank{self.processes.rank}.pt"
        torch.save(self.network.state_dict(), self.folder.parent / name)


def main() -> None:
    recipe, pairs, output = sys.argv[1:]
    torch.set_num_threads(1)
    PRESETS["unet"] = "tests.training.tiny"
    training.parcellation.train.Run = Kept
    with join_processes("cpu") as (processes, device):
        training.parcellation.train.join_processes = lambda _: nullcontext((processes, device))
        command = [recipe, "--pairs", pairs, "--device", "cpu"]
        training.parcellation.train.main([*command, "-o", f"{output}/straight{processes.rank}"])
        clock = count(step=10) if processes.first else count(step=0)
        training.loop.run.time = SimpleNamespace(perf_counter=lambda: float(next(clock)))
        parts = f"{output}/parts"
        training.parcellation.train.main([*command, "-o", parts, "--minutes", "1"])
        if processes.first:
            shutil.copy(f"{parts}/last.pt", f"{output}/stopped.pt")
        training.parcellation.train.main([*command, "-o", parts, "--resume"])


if __name__ == "__main__":
    main()
