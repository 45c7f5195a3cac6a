"""Engines on disk are found by their facts and loaded only if they are safe."""

from __future__ import annotations

import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from neurobento.backends.cuda import Gpu
from neurobento.backends.engine import (
    EngineFacts,
    engine_folder,
    find_engine,
    gpu_target,
    private_folder,
    read_engine,
    read_facts,
    write_engine,
)
from neurobento.errors import EngineMismatch
from neurobento.registry import Model, open_model

FACTS = EngineFacts(
    "tensorrt-rtx", "1.7.1.116", ("sm_120", "sm_89"), "fp16", (1, 1, 8), "ab" * 32, 1
)
OTHERS: dict[str, Any] = {
    "flavour": "tensorrt",
    "library": "1.7.1.117",
    "targets": ("sm_89",),
    "precision": "fp32",
    "profile": (1, 1, 4),
    "onnx_sha256": "ac" * 32,
    "recipe": 2,
}
ENGINE = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def model(known_model: Path) -> Model:
    return open_model(known_model)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "engines"


@pytest.fixture
def folder(model: Model, root: Path) -> Path:
    return write_engine(model, FACTS, ENGINE, root)


def for_one(**changes: Any) -> EngineFacts:
    """The facts that a machine with one kind of GPU needs."""
    return dataclasses.replace(FACTS, targets=("sm_89",), **changes)


def test_an_engine_and_its_sidecar_come_back_as_they_were_written(folder: Path) -> None:
    assert read_engine(folder) == ENGINE
    found = read_facts(folder)
    assert dataclasses.replace(found, engine_sha256="") == FACTS
    assert len(found.engine_sha256) == 64
    assert found.key == FACTS.key == folder.name


def test_a_sidecar_is_readable_and_with_its_engine_for_their_owner_alone(folder: Path) -> None:
    values = json.loads((folder / "engine.json").read_text())
    assert (values["format"], values["model"]) == (1, "regions")
    assert values["targets"] == ["sm_120", "sm_89"]
    assert values["profile"] == [1, 1, 8]
    assert values["recipe"] == 1
    assert sorted(path.name for path in folder.iterdir()) == ["engine.json", "engine.plan"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "engine.plan").stat().st_mode & 0o777 == 0o600


def test_an_engine_is_private_whatever_the_umask(model: Model, root: Path) -> None:
    before = os.umask(0)
    try:
        folder = write_engine(model, FACTS, ENGINE, root)
    finally:
        os.umask(before)
    assert read_engine(folder) == ENGINE


def test_builds_at_once_leave_an_engine_beside_its_own_sidecar(model: Model, root: Path) -> None:
    """No two builds give the same bytes, and readers never see the one with the other's hash."""
    engines = [bytes([n]) * 200_000 for n in range(8)]
    folder = write_engine(model, FACTS, engines[0], root)
    with ThreadPoolExecutor(9) as pool:
        writers = [pool.submit(write_engine, model, FACTS, each, root) for each in engines]
        while not all(writer.done() for writer in writers):
            assert read_engine(folder) in engines
    assert {writer.result() for writer in writers} == {folder}
    assert read_engine(folder) in engines


def test_the_key_changes_with_every_fact_and_not_from_run_to_run() -> None:
    """Otherwise every engine would be built again."""
    assert FACTS.key == "d2f2b21c8632c25c"
    assert dataclasses.replace(FACTS, engine_sha256="cd" * 32).key == FACTS.key
    keys = {dataclasses.replace(FACTS, **{fact: value}).key for fact, value in OTHERS.items()}
    assert len(keys - {FACTS.key}) == len(OTHERS)
    names = {field.name for field in dataclasses.fields(EngineFacts)}
    assert names == {*OTHERS, "engine_sha256"}


def test_an_engine_for_more_gpus_serves_those_and_no_other(
    model: Model, root: Path, folder: Path
) -> None:
    assert find_engine(model, for_one(), root) == folder
    with pytest.raises(EngineMismatch, match="for sm_120, sm_89 instead of sm_86"):
        find_engine(model, dataclasses.replace(FACTS, targets=("sm_86",)), root)


@pytest.mark.parametrize("fact", sorted(OTHERS.keys() - {"targets"}))
def test_an_engine_that_differs_in_one_fact_is_refused_and_the_fact_named(
    model: Model, root: Path, folder: Path, fact: str
) -> None:
    with pytest.raises(EngineMismatch, match=f"another engine: {fact} .* instead of ") as caught:
        find_engine(model, dataclasses.replace(FACTS, **{fact: OTHERS[fact]}), root)
    assert caught.value.found.count("instead of") == 1


def test_the_nearest_engine_is_named(model: Model, root: Path, folder: Path) -> None:
    """The order of the folders does not matter."""
    far = dataclasses.replace(FACTS, library="1.6", profile=(1, 1, 4))
    for i in range(8):
        write_engine(model, dataclasses.replace(far, onnx_sha256=f"{i}"), ENGINE, root)
    with pytest.raises(EngineMismatch) as caught:
        find_engine(model, for_one(precision="fp32"), root)
    assert caught.value.found == "another engine: precision fp16 instead of fp32"


def test_without_an_engine_the_error_says_how_to_build_it_and_names_no_folder(
    model: Model, root: Path
) -> None:
    """The text is written to spec.json."""
    with pytest.raises(EngineMismatch) as caught:
        find_engine(model, for_one(), root)
    assert caught.value.found == "no engine"
    assert "fp16 for sm_89" in caught.value.expected
    assert (
        "python -m export.to_tensorrt models/regions --flavour tensorrt-rtx --precision fp16"
        in caught.value.remedy
    )
    assert str(model.folder) not in caught.value.public_message
    assert str(root) not in caught.value.public_message


def test_another_models_engine_is_not_looked_at(model: Model, root: Path, folder: Path) -> None:
    other = dataclasses.replace(model, spec=dataclasses.replace(model.spec, name="unet"))
    with pytest.raises(EngineMismatch, match="found no engine"):
        find_engine(other, FACTS, root)


def test_an_engine_whose_writing_was_cut_off_is_none(
    model: Model, root: Path, folder: Path
) -> None:
    (folder / "engine.json").unlink()
    with pytest.raises(EngineMismatch, match="found no engine"):
        find_engine(model, FACTS, root)
    with pytest.raises(EngineMismatch, match="no such file"):
        read_engine(folder)


def test_an_engine_without_its_file_is_refused(folder: Path) -> None:
    (folder / "engine.plan").unlink()
    with pytest.raises(EngineMismatch, match="no such file"):
        read_engine(folder)


@pytest.mark.parametrize("place", ["", "engine.plan", "engine.json"])
def test_an_engine_that_others_can_write_is_refused_and_one_that_they_can_read_taken(
    folder: Path, place: str
) -> None:
    (folder / place).chmod(0o755)
    assert read_engine(folder) == ENGINE
    for mode in (0o720, 0o702, 0o777):
        (folder / place).chmod(mode)
        with pytest.raises(EngineMismatch, match=f"can write to; found mode {mode:o}"):
            read_engine(folder)


def test_nothing_is_written_where_others_may_write(model: Model, root: Path) -> None:
    folder = root / "regions" / FACTS.key
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(EngineMismatch, match="chmod -R go-w"):
        write_engine(model, FACTS, ENGINE, root)
    assert list(folder.iterdir()) == []
    with pytest.raises(EngineMismatch, match="chmod -R go-w"):
        engine_folder(model, FACTS, root)


def test_the_place_of_an_engine_is_known_before_it_is_built(model: Model, root: Path) -> None:
    place = engine_folder(model, FACTS, root)
    assert not root.exists()
    assert write_engine(model, FACTS, ENGINE, root) == place


def test_what_another_user_owns_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.getuid() or 4242
    if os.getuid() == 0:  # whose files all may load
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner, -1)
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(EngineMismatch, match=f"owner {owner}"):
        read_engine(folder)
    monkeypatch.setattr(os, "getuid", lambda: owner)
    assert read_engine(folder) == ENGINE


@pytest.mark.parametrize("at", [0, 511, len(ENGINE) - 1])
def test_an_engine_with_one_changed_byte_is_refused(folder: Path, at: int) -> None:
    changed = bytearray(ENGINE)
    changed[at] ^= 1
    (folder / "engine.plan").write_bytes(changed)
    with pytest.raises(EngineMismatch, match=r"as its sidecar says.*build the engine again"):
        read_engine(folder)


OTHER_FORMS: list[tuple[str, Any]] = [
    ("format", 2),
    ("format", None),
    ("targets", 7),
    ("profile", None),
]
OTHER_FORMS += [("colour", "green"), ("model", ...), ("library", ...), ("recipe", ...)]


@pytest.mark.parametrize("change", [*OTHER_FORMS, b"", b"{", b"[]", b"7", b"\xff\xfe"], ids=repr)
def test_a_broken_sidecar_or_one_of_another_form_is_refused(
    folder: Path, change: tuple[str, Any] | bytes
) -> None:
    sidecar = folder / "engine.json"
    if isinstance(change, tuple):
        values = json.loads(sidecar.read_text()) | dict([change])
        kept = {name: value for name, value in values.items() if value is not ...}
        change = json.dumps(kept).encode()
    sidecar.write_bytes(change)
    for read in (read_facts, read_engine):
        with pytest.raises(EngineMismatch, match="an engine's sidecar of format 1"):
            read(folder)


def test_a_broken_sidecar_stands_in_no_other_engines_way(
    model: Model, root: Path, folder: Path
) -> None:
    for name in ("0", "z"):
        (root / "regions" / name).mkdir()
        (root / "regions" / name / "engine.json").write_text("{")
    assert find_engine(model, for_one(), root) == folder


def test_engines_are_for_a_compute_capability_or_for_one_kind_of_gpu() -> None:
    assert gpu_target("tensorrt-rtx", Gpu("NVIDIA GeForce RTX 4090", "8.9")) == "sm_89"
    assert gpu_target("tensorrt-rtx", Gpu("NVIDIA GeForce RTX 5090", "12.0")) == "sm_120"
    assert gpu_target("tensorrt", Gpu("NVIDIA L4", "8.9")) == "NVIDIA L4 sm_89"


def test_engines_are_found_where_the_environment_says(
    model: Model, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROBENTO_ENGINES", str(root))
    assert find_engine(model, FACTS) == folder
    assert write_engine(model, for_one(), ENGINE).parent == folder.parent


def test_a_private_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    made = private_folder(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700
    assert private_folder(made) == made
    made.chmod(0o770)
    with pytest.raises(EngineMismatch, match="mode 770"):
        private_folder(made)
