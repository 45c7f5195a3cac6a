"""The files of a parcellation, read back with other tools."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.backends import Backend, open_backend
from neurobento.errors import ConfigError
from neurobento.facts import backend_facts
from neurobento.imaging.geometry import FINDER_SHAPE
from neurobento.imaging.scan import Scan, space_of
from neurobento.labels import aal116
from neurobento.parcellation.outputs import (
    RUN_FORMAT,
    bias_corrected_bytes,
    dseg_bytes,
    output_files,
    require_mask,
)
from neurobento.parcellation.parcellator import Parcellation, Parcellator
from neurobento.preprocessing.brain import Brain
from neurobento.registry import open_model

NETWORK = (91, 122, 123)
MNI = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.1]), [-68.0, -90.0, -60.0])


@pytest.fixture(scope="module")
def labels(known_labels: Callable[[int], Any]) -> Any:
    labels = known_labels(6)
    labels[labels == 95] = 0  # one region is missing
    return labels


@pytest.fixture(scope="module")
def scan(labels: Any) -> Scan:
    return Scan((labels / np.float32(116)).astype(np.float32), space_of(NETWORK, MNI))


@pytest.fixture(scope="module")
def backend(known_model: Path) -> Iterator[Backend]:
    opened = open_backend(open_model(known_model), threads=1)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def parcellation(scan: Scan, backend: Backend) -> Parcellation:
    return Parcellator(backend).parcellate(scan, "none")


@pytest.fixture(scope="module")
def files(scan: Scan, parcellation: Parcellation, backend: Backend) -> dict[str, bytes]:
    return output_files("sub-01_T1w", scan, parcellation, backend_facts(backend))


@pytest.fixture(scope="module")
def run(files: dict[str, bytes]) -> Any:
    return json.loads(files["sub-01_T1w_run.json"])


@pytest.fixture(scope="module")
def with_brain(parcellation: Parcellation) -> Parcellation:
    """The same with a box of 787 ml as its brain, 300 ml of it tissue."""
    share = np.zeros(FINDER_SHAPE, np.uint8)
    share[:40, :40, :25] = 255
    grid = nib.affines.from_matvec(np.diag([2.7] * 3), [-40.0, -60.0, -30.0])
    brain = Brain(share, grid, tissue_ml=300.0)
    return replace(parcellation, prepared=replace(parcellation.prepared, brain=brain))


def output_of(scan: Scan, parcellation: Parcellation, backend: Backend, ending: str) -> bytes:
    return output_files("s", scan, parcellation, backend_facts(backend))[f"s_{ending}"]


def table(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode()), delimiter="\t"))


def test_five_files_are_called_after_the_scan_and_the_picture_is_a_png(
    files: dict[str, bytes],
) -> None:
    endings = ("dseg.nii.gz", "dseg.tsv", "volumes.tsv", "overlay.png", "run.json")
    assert list(files) == [f"sub-01_T1w_{ending}" for ending in endings]
    assert files["sub-01_T1w_overlay.png"].startswith(b"\x89PNG\r\n\x1a\n")


def test_nibabel_reads_labels_affine_and_the_region_table(
    files: dict[str, bytes], labels: Any
) -> None:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(files["sub-01_T1w_dseg.nii.gz"]))
    assert image.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(image.dataobj), labels)
    assert image.affine == pytest.approx(MNI, abs=1e-5)
    assert image.header.get_intent()[0] == "label"
    (extension,) = image.header.extensions
    assert extension.get_code() == 6
    content = extension.get_content()
    content = content.encode() if isinstance(content, str) else content
    assert content.rstrip(b"\0") == files["sub-01_T1w_dseg.tsv"]


def test_the_lookup_table_names_the_regions_of_the_atlas(files: dict[str, bytes]) -> None:
    rows = table(files["sub-01_T1w_dseg.tsv"])
    assert [int(row["index"]) for row in rows] == list(range(117))
    by_index = {int(row["index"]): row for row in rows}
    # Tzourio-Mazoyer et al. 2002: the first region, and the last of the vermis
    assert (by_index[1]["name"], by_index[1]["aal_code"]) == ("Precentral_L", "2001")
    assert (by_index[116]["name"], by_index[116]["aal_code"]) == ("Vermis_10", "9170")


def test_the_volume_table_holds_the_voxels_of_each_region(
    files: dict[str, bytes], labels: Any
) -> None:
    rows = table(files["sub-01_T1w_volumes.tsv"])
    counts = np.bincount(labels.ravel(), minlength=117)
    assert [int(row["index"]) for row in rows] == list(range(1, 117))
    assert [int(row["voxels"]) for row in rows] == counts[1:].tolist()
    volumes = [float(row["volume_mm3"]) for row in rows]
    assert volumes == pytest.approx(counts[1:] * 1.5 * 1.25 * 1.1, abs=0.06)
    assert rows[94]["plausibility"] == "missing"


def test_the_mask_holds_the_brain_on_the_scans_own_grid(
    with_brain: Parcellation, scan: Scan, backend: Backend
) -> None:
    """The box has the edges -41.35 and 66.65, -61.35 and 46.65, -31.35 and 36.15 mm."""
    content = output_of(scan, with_brain, backend, "mask.nii.gz")
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    assert image.get_data_dtype() == np.uint8
    assert image.affine == pytest.approx(MNI, abs=1e-5)
    mask = np.asarray(image.dataobj)
    assert mask.shape == NETWORK
    world = nib.affines.apply_affine(MNI, np.moveaxis(np.indices(NETWORK), 0, -1))
    middle, half = np.array([12.65, -7.35, 2.4]), np.array([54, 54, 33.75])
    beyond = (np.abs(world - middle) - half).max(axis=-1)
    assert (mask[beyond < -2] == 1).all()
    assert (mask[beyond > 0.1] == 0).all()


@pytest.mark.parametrize("tissue_ml", [300.0, None])
def test_table_and_facts_end_with_the_whole_brains_volumes(
    with_brain: Parcellation, scan: Scan, backend: Backend, tissue_ml: float | None
) -> None:
    """Without a network nobody knows whether the mask holds the fluid around the brain."""
    prepared = with_brain.prepared
    assert prepared.brain is not None
    brain = replace(prepared.brain, tissue_ml=tissue_ml)
    made = replace(with_brain, prepared=replace(prepared, brain=brain))
    whole = round(40 * 40 * 25 * 2.7**3, 1)
    expected = {"Intracranial": whole, "Brain_tissue": 300e3}
    if tissue_ml is None:
        expected = {"Brain_mask": whole}
    assert json.loads(output_of(scan, made, backend, "run.json"))["brain_mm3"] == expected
    rows = table(output_of(scan, made, backend, "volumes.tsv"))
    assert len(rows) == 116 + len(expected)
    assert {row["name"]: float(row["volume_mm3"]) for row in rows[116:]} == expected
    for row in rows[116:]:
        others = {value for name, value in row.items() if name not in ("name", "volume_mm3")}
        assert others == {"n/a"}


def test_an_image_without_a_mask_has_neither_rows_nor_facts_of_the_brain(
    run: Any, files: dict[str, bytes]
) -> None:
    assert run["brain_mm3"] == {}
    assert len(table(files["sub-01_T1w_volumes.tsv"])) == 116


def test_the_run_file_says_which_model_answered_how_it_was_run_and_what_was_found(
    run: Any, backend: Backend, labels: Any
) -> None:
    assert run["format"] == RUN_FORMAT == 1
    assert run["model"] == {
        "name": "regions",
        "version": "0.0.1",
        "onnx_sha256": backend.spec.onnx_sha256,
        "region_table_sha256": aal116().sha256,
    }
    assert run["backend"]["name"] == backend.name
    assert {"library", "device", "precision", "threads"} <= run["backend"].keys()
    assert run["preprocessing"] == "none"
    assert list(run["seconds"]) == ["check", "infer", "restore", "measure"]
    assert run["native_shape"] == list(NETWORK)
    assert run["regions_found"] == len(np.unique(labels)) - 1 == 115
    assert any("1 region(s) missing: Cerebelum_3_L" in warning for warning in run["warnings"])
    assert run["versions"]["numpy"] == metadata.version("numpy")
    assert run["versions"]["nibabel"] == metadata.version("nibabel")


def test_the_same_scan_gives_the_same_bytes_and_another_scan_others(
    scan: Scan, backend: Backend, parcellation: Parcellation, known_labels: Callable[[int], Any]
) -> None:
    again = Parcellator(backend).parcellate(scan, "none")
    assert dseg_bytes(again) == dseg_bytes(parcellation)
    image = (known_labels(7) / np.float32(116)).astype(np.float32)
    other = Parcellator(backend).parcellate(Scan(image, space_of(NETWORK, MNI)), "none")
    assert dseg_bytes(other) != dseg_bytes(parcellation)


# --- the bias-corrected image ---


def test_the_bias_corrected_image_lies_on_the_scans_own_grid(
    scan: Scan, parcellation: Parcellation, backend: Backend
) -> None:
    share = np.zeros(FINDER_SHAPE, np.uint8)
    share[20:70, 20:70, 20:70] = 255
    grid = nib.affines.from_matvec(np.diag([2.7] * 3), [-130.0] * 3)
    prepared = replace(parcellation.prepared, brain=Brain(share, grid), preprocessing="stripped")
    with_brain = replace(parcellation, prepared=prepared)
    files = output_files("a", scan, with_brain, backend_facts(backend), bias_corrected=True)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(files["a_bias_corrected.nii.gz"]))
    assert image.shape == scan.shape
    assert np.allclose(image.affine, scan.voxel_to_ras)  # float32 in the file
    assert image.get_data_dtype() == np.float32


def test_without_a_mask_there_is_no_bias_corrected_image(
    scan: Scan, parcellation: Parcellation
) -> None:
    with pytest.raises(ValueError, match="a mask of the brain"):
        bias_corrected_bytes(scan, parcellation)


@pytest.mark.parametrize(("version", "preprocessing"), [(1, "full"), (1, "none"), (2, "none")])
def test_preparations_without_a_mask_are_refused_before_the_work(
    version: int, preprocessing: Any
) -> None:
    with pytest.raises(ConfigError, match="preprocessing version 2"):
        require_mask(version, preprocessing)


@pytest.mark.parametrize("preprocessing", ["full", "stripped"])
def test_preparations_with_a_mask_are_not(preprocessing: Any) -> None:
    require_mask(2, preprocessing)
