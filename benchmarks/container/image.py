"""What an image of buildah's store holds: its layers, and the packages inside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["folder_bytes", "largest_packages", "layers", "read_stored", "start_facts"]

PACKAGES = "app/.venv/lib/python3.11/site-packages"
"""Where BentoML installs them; below the image's root."""

SHELL = "/bin/sh -c "
NOTHING = "#(nop) "
"""How the history of an image writes a step that runs nothing."""


def start_facts(inspected: Mapping[str, Any]) -> dict[str, Any]:
    """How the image says that it is to be started.

    Parameters
    ----------
    inspected
        What `buildah inspect --type image` says.
    """
    config = inspected["OCIv1"]["config"]
    return {
        "user": config.get("User", ""),
        "entrypoint": config.get("Entrypoint", []),
        "folder": config.get("WorkingDir", "/"),
        "environment": config.get("Env", []),
    }


def layers(
    inspected: Mapping[str, Any], stored: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Layers from the lowest up, each with its bytes unpacked and the step that made it.

    Parameters
    ----------
    inspected
        What `buildah inspect --type image` says.
    stored
        overlay-layers/layers.json of the store.
    """
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
    # arguments of the build stand before the command, and a parent's name after it
    command = step.get("created_by", "").split("FROM ")[0].split(SHELL)[-1]
    return " ".join(command.removeprefix(NOTHING).split())


def largest_packages(root: Path, count: int = 20) -> dict[str, int]:
    """The largest folders of installed packages, with their bytes; below an image's root."""
    sizes = {path.name: folder_bytes(path) for path in (root / PACKAGES).iterdir() if path.is_dir()}
    order = sorted(sizes, key=lambda name: sizes[name], reverse=True)
    return {name: sizes[name] for name in order[:count]}


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    """Bytes of the files below a folder whose names fit a pattern; links are not followed."""
    return sum(
        path.lstat().st_size
        for path in folder.rglob(pattern)
        if path.is_file() and not path.is_symlink()
    )


def read_stored(store: Path) -> list[dict[str, Any]]:
    """What buildah's store says of its layers."""
    return list(json.loads((store / "overlay-layers/layers.json").read_text()))
