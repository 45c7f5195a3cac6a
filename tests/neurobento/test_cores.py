"""How much memory there is, on machines and in containers that are a few files each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento import cores
from neurobento.cores import GIB, free_memory, usable_memory, workers_for
from neurobento.errors import NotEnoughMemory
from neurobento.imaging.scan import read_scan

MACHINE = 16 * GIB


class Machine:
    """A machine of 16 GiB, 10 of them free, with two versions of cgroups."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "own").write_text("")
        (folder / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {10 * GIB // 1024} kB\n")

    def put(self, group: str, limit: str, usage: int, files: int, version: int = 2) -> None:
        folder = self.folder / group.strip("/") if version == 2 else self.folder / "memory" / group
        folder.mkdir(parents=True, exist_ok=True)
        names = cores.FILES["" if version == 2 else "memory"]
        (folder / names[0]).write_text(limit)
        (folder / names[1]).write_text(str(usage))
        rows = {"anon": 1, f"{names[2]}inactive_file": files // 4}
        rows[f"{names[2]}active_file"] = files - files // 4
        text = "".join(f"{name} {size}\n" for name, size in rows.items())
        (folder / "memory.stat").write_text(text)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": MACHINE // 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    monkeypatch.setattr(cores, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(cores, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(cores, "usable_cores", lambda: 8)
    return Machine(tmp_path)


def test_without_a_container_it_is_the_machines(machine: Machine) -> None:
    assert usable_memory() == MACHINE
    assert free_memory() == 10 * GIB
    machine.put("", "max", 5 * GIB, 0)
    assert (usable_memory(), free_memory()) == (MACHINE, 10 * GIB)


@pytest.mark.parametrize("version", [1, 2])
def test_in_a_container_it_is_what_is_left_of_its_limit(machine: Machine, version: int) -> None:
    """Files in memory are dropped when it is needed."""
    machine.put("", str(4 * GIB), 3 * GIB, GIB, version)
    assert usable_memory() == 4 * GIB
    assert free_memory() == 2 * GIB


@pytest.mark.parametrize("version", [1, 2])
def test_a_job_of_a_cluster_has_a_group_of_its_own_inside_others(
    machine: Machine, version: int
) -> None:
    controllers = {1: "memory", 2: ""}[version]
    (machine.folder / "own").write_text(f"7:cpu:/other\n4:{controllers}:/slurm/job_7\n")
    machine.put("slurm", str(8 * GIB), 7 * GIB, 0, version)
    machine.put("slurm/job_7", str(3 * GIB), GIB, 0, version)
    assert usable_memory() == 3 * GIB
    assert free_memory() == GIB


@pytest.mark.parametrize("content", ["", "no numbers", "1:2", "\n\n"])
def test_files_of_another_form_are_passed_over(machine: Machine, content: str) -> None:
    for name in ("own", "meminfo", "memory.max", "memory.current", "memory.stat"):
        (machine.folder / name).write_text(content)
    assert usable_memory() == MACHINE
    assert free_memory() is None


def test_a_system_that_does_not_tell_has_unknown_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf")
    assert usable_memory() is None
    assert workers_for(1) >= 1


@pytest.mark.parametrize(
    ("gib", "threads", "reserved", "workers"),
    [(1, 1, 0, 1), (6, 1, 0, 2), (6, 1, 3, 1), (64, 1, 0, 8), (64, 2, 0, 4), (64, 16, 0, 1)],
)
def test_as_many_scans_at_a_time_as_cores_and_memory_allow(
    gib: int,
    threads: int,
    reserved: int,
    workers: int,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": gib * GIB // 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    assert workers_for(threads, reserved * GIB) == workers


def scan(folder: Path, shape: tuple[int, int, int]) -> Path:
    path = folder / "JANE_DOE.nii"
    voxels = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 1.5, 1.0])), path)
    return path


def test_a_scan_that_the_memory_does_not_hold_is_refused_before_its_voxels_are_read(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = scan(tmp_path, (128, 128, 64))
    (tmp_path / "meminfo").write_text("MemAvailable: 281000 kB\n")
    assert read_scan(path).shape == (128, 128, 64)

    def fail(*_: Any) -> None:
        raise AssertionError("voxels were read")

    monkeypatch.setattr("neurobento.imaging.scan.read_voxels", fail)
    (tmp_path / "meminfo").write_text("MemAvailable: 278000 kB\n")
    with pytest.raises(NotEnoughMemory) as caught:
        read_scan(path)
    assert caught.value.expected == "274 MiB of free memory for a scan of 128 x 128 x 64 voxels"
    assert caught.value.found == "271 MiB"
    assert caught.value.subject == str(path)
    assert "JANE" not in caught.value.public_message
