"""What the check of a container takes for a proof, and how it reads an image's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.container.image import folder_bytes, largest_packages, layers
from benchmarks.container.lockdown import PROBE, processes_inside, proofs, violations

HOME = "/home/bentoml"
ROOT_MOUNT = "21 1 0:20 / / ro,nosuid,nodev - overlay overlay rw"
TMP_MOUNT = "22 21 0:21 / /tmp rw,nosuid,nodev,noexec - tmpfs tmpfs rw"


def status(**changed: str) -> str:
    lines = {
        **dict.fromkeys(("Uid", "Gid"), "1034\t1034\t1034\t1034"),
        "Groups": "",
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16),
        "NoNewPrivs": "1",
        **changed,
    }
    return "".join(f"{name}:\t{value}\n" for name, value in lines.items())


def process(proc: Path, pid: int, namespace: str, text: str) -> Path:
    folder = proc / str(pid)
    (folder / "ns").mkdir(parents=True)
    (folder / "ns/pid").symlink_to(f"pid:[{namespace}]")
    (folder / "status").write_text(text)
    return folder


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A container of the processes 7 and 8, and a process outside."""
    first = process(tmp_path, 7, "inside", status())
    process(tmp_path, 8, "inside", status())
    process(tmp_path, 1, "outside", status(Uid="0\t0\t0\t0"))
    (first / "mountinfo").write_text(f"{ROOT_MOUNT}\n{TMP_MOUNT}\n")
    (first / "root/tmp").mkdir(parents=True)
    (first / "root" / PROBE).write_text(f"/: Permission denied\n{HOME}: Read-only file system\n")
    return tmp_path


def wrong(proc: Path) -> list[str]:
    return violations(proofs(7, proc), ["/tmp"], [HOME])


def test_a_locked_container_violates_nothing(proc: Path) -> None:
    assert processes_inside(7, proc) == [7, 8]
    assert wrong(proc) == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("Uid", "0\t0\t0\t0", "a process is root or in its group"),
        ("Gid", "1034\t0\t1034\t1034", "a process is root or in its group"),
        ("Groups", "0 1034", "a process is root or in its group"),
        ("CapEff", "0000000000000400", "CapEff is not 0"),
        ("CapBnd", "00000000a80425fb", "CapBnd is not 0"),
        ("NoNewPrivs", "0", "a process may gain privileges"),
    ],
)
def test_one_process_that_may_more_is_a_violation(
    proc: Path, name: str, value: str, told: str
) -> None:
    (proc / "8/status").write_text(status(**{name: value}))
    assert wrong(proc) == [told]


@pytest.mark.parametrize(
    ("mounts", "told"),
    [
        ([ROOT_MOUNT.replace("ro,", "rw,"), TMP_MOUNT], "the root is not read-only"),
        ([ROOT_MOUNT, TMP_MOUNT.replace("/tmp", "/var/tmp")], "/var/tmp is writable"),
    ],
)
def test_more_than_the_temporary_folder_is_writable(
    proc: Path, mounts: list[str], told: str
) -> None:
    (proc / "7/mountinfo").write_text("\n".join(mounts))
    assert told in wrong(proc)


@pytest.mark.parametrize(
    ("probe", "told"),
    [
        ("", "no write was tried"),
        (f"wrote /etc\n{HOME}: Read-only file system\n", "/etc was written to"),
        (f"{HOME}: Permission denied\n", f"{HOME} is not kept by a read-only file system"),
    ],
)
def test_what_the_first_process_could_write_counts(proc: Path, probe: str, told: str) -> None:
    (proc / "7" / "root" / PROBE).write_text(probe)
    assert told in wrong(proc)


def step(created_by: str, **more: bool) -> dict[str, Any]:
    return {"created_by": created_by, **more}


def test_layers_stand_beside_the_steps_that_made_them() -> None:
    history = [
        step("/bin/sh"),
        step("/bin/sh -c #(nop) ENV LANG=C.UTF-8", empty_layer=True),
        step("|1 USER=bentoml /bin/sh -c mkdir  $HERE"),
        step("/bin/sh -c #(nop) COPY dir:d932 in ./"),
    ]
    image = {"OCIv1": {"history": history, "rootfs": {"diff_ids": ["a", "b", "c"]}}}
    stored = [
        {"diff-digest": name, "diff-size": size}
        for name, size in zip("abc", (5, 3, 4), strict=True)
    ]
    assert layers(image, [*stored, {"id": "not yet packed"}]) == [
        {"bytes": 5, "made_by": "the base image"},
        {"bytes": 3, "made_by": "mkdir $HERE"},
        {"bytes": 4, "made_by": "COPY dir:d932 in ./"},
    ]


def test_the_largest_packages_are_told_first(tmp_path: Path) -> None:
    packages = tmp_path / "app/.venv/lib/python3.11/site-packages"
    for name, size in (("small", 1), ("large", 30), ("middle", 20)):
        (packages / name).mkdir(parents=True)
        (packages / name / "data.bin").write_bytes(b"x" * size)
    (packages / "middle/again.bin").symlink_to(packages / "large/data.bin")
    assert list(largest_packages(tmp_path, 2).items()) == [("large", 30), ("middle", 20)]
    assert folder_bytes(packages, "*.pyc") == 0
