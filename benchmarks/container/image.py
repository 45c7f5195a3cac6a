"""Layers and packages of an image in buildah's store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["folder_bytes", "image_layers", "largest_packages", "read_stored", "start_facts"]

PACKAGES = "app/.venv/lib/python3.11/site-packages"
"""BentoML installs packages here, below the image's root."""

SHELL = "/bin/sh -c "
NOTHING = "#(nop) "
"""Prefix of a step in the image's history that runs nothing."""


def start_facts(inspected: Mapping[str, Any]) -> dict[str, Any]:
    """Return user, entry point, folder and environment from `buildah inspect --type image`."""
    config = inspected["OCIv1"]["config"]
    return {
        "user": config.get("User", ""),
        "entrypoint": config.get("Entrypoint", []),
        "folder": config.get("WorkingDir", "/"),
        "environment": config.get("Env", []),
    }


def image_layers(
    inspected: Mapping[str, Any], stored: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the layers from the lowest up, each with its unpacked bytes and its build step."""
    sizes = {each["diff-digest"]: each["diff-size"] for each in stored if "diff-digest" in each}
    image = inspected["OCIv1"]
    steps = [step for step in image["history"] if not step.get("empty_layer")]
    digests = image["rootfs"]["diff_ids"]
    return [
        {"bytes": sizes[digest], "made_by": _made_by(step, first=not number)}
        for number, (digest, step) in enumerate(zip(digests, steps, strict=True))
    ]


def _made_by(step: Mapping[str, Any], *, first: bool) -> str:
    if first:
        return "the base image"
    # Build arguments precede the command, and a parent's name follows it.
    command = step.get("created_by", "").split("FROM ")[0].split(SHELL)[-1]
    return " ".join(command.removeprefix(NOTHING).split())


def largest_packages(root: Path, count: int = 20) -> dict[str, int]:
    """Return the largest package folders below an image's root, with their bytes."""
    sizes = {path.name: folder_bytes(path) for path in (root / PACKAGES).iterdir() if path.is_dir()}
    order = sorted(sizes, key=lambda name: sizes[name], reverse=True)
    return {name: sizes[name] for name in order[:count]}


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    """Return the bytes of matching files below a folder; links are not followed."""
    return sum(
        path.lstat().st_size
        for path in folder.rglob(pattern)
        if path.is_file() and not path.is_symlink()
    )


def read_stored(store: Path) -> list[dict[str, Any]]:
    """Read overlay-layers/layers.json of buildah's store."""
    return list(json.loads((store / "overlay-layers/layers.json").read_text()))
