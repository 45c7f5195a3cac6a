"""An image's layers and packages are read from buildah's store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.container.image import folder_bytes, image_layers, largest_packages


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
    assert image_layers(image, [*stored, {"id": "not yet packed"}]) == [
        {"bytes": 5, "made_by": "the base image"},
        {"bytes": 3, "made_by": "mkdir $HERE"},
        {"bytes": 4, "made_by": "COPY dir:d932 in ./"},
    ]


def test_the_largest_packages_come_first(tmp_path: Path) -> None:
    packages = tmp_path / "app/.venv/lib/python3.11/site-packages"
    for name, size in (("small", 1), ("large", 30), ("middle", 20)):
        (packages / name).mkdir(parents=True)
        (packages / name / "data.bin").write_bytes(b"x" * size)
    (packages / "middle/again.bin").symlink_to(packages / "large/data.bin")
    assert list(largest_packages(tmp_path, 2).items()) == [("large", 30), ("middle", 20)]
    assert folder_bytes(packages, "*.pyc") == 0
