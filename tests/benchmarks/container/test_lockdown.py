"""The kernel's reports prove that a container is isolated, or say what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.container.lockdown import PROBE_FILE, container_pids, kernel_facts, violations

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
    (first / "root" / PROBE_FILE).write_text(
        f"/: Permission denied\n{HOME}: Read-only file system\n"
    )
    return tmp_path


def wrong(proc: Path) -> list[str]:
    return violations(kernel_facts(7, proc), ["/tmp"], [HOME])


def test_a_locked_container_violates_nothing(proc: Path) -> None:
    assert container_pids(7, proc) == [7, 8]
    assert wrong(proc) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
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
    proc: Path, name: str, value: str, message: str
) -> None:
    (proc / "8/status").write_text(status(**{name: value}))
    assert wrong(proc) == [message]


@pytest.mark.parametrize(
    ("mounts", "message"),
    [
        ([ROOT_MOUNT.replace("ro,", "rw,"), TMP_MOUNT], "the root is not read-only"),
        ([ROOT_MOUNT, TMP_MOUNT.replace("/tmp", "/var/tmp")], "/var/tmp is writable"),
    ],
)
def test_more_than_the_temporary_folder_is_writable(
    proc: Path, mounts: list[str], message: str
) -> None:
    (proc / "7/mountinfo").write_text("\n".join(mounts))
    assert message in wrong(proc)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ("", "no write was attempted"),
        (f"wrote /etc\n{HOME}: Read-only file system\n", "/etc was written to"),
        (f"{HOME}: Permission denied\n", f"{HOME} is not protected by a read-only file system"),
    ],
)
def test_what_the_first_process_could_write_counts(proc: Path, probe: str, message: str) -> None:
    (proc / "7" / "root" / PROBE_FILE).write_text(probe)
    assert message in wrong(proc)
