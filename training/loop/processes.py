"""Several processes that train one network together, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

__all__ = ["ALONE", "Processes", "join_processes"]


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; rank 0 validates, writes and logs."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """True in the process that validates, writes and logs."""
        return self.rank == 0

    def broadcast(self, value: float, device: torch.device) -> float:
        """Return the first process's value in every process."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.broadcast(shared, src=0)
        return float(shared)

    def wait_for_first(self, device: torch.device) -> None:
        """Return once the first process calls this too: its files are written then."""
        self.broadcast(0.0, device)


ALONE = Processes()


@contextmanager
def join_processes(device: str) -> Iterator[tuple[Processes, str]]:
    """Join the processes that torchrun started, if it did; each gets a GPU of its own."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE, device
        return
    on_cuda = device.startswith("cuda")
    if on_cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size()), device
    finally:
        distributed.destroy_process_group()
