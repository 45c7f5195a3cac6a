"""The whole path with a backend whose answers are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine

from neurobento.errors import NotOnNetworkGrid
from neurobento.imaging.geometry import FINDER_SHAPE
from neurobento.imaging.scan import Scan, space_of
from neurobento.parcellation.parcellator import (
    Parcellation,
    Parcellator,
    prepare,
    restore_and_measure,
)
from neurobento.preprocessing.brain import Brain
from neurobento.spec import ModelSpec

NETWORK = (91, 122, 123)
MNI = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.1]), [-68.0, -90.0, -60.0])
STRIPPED_STEPS = [
    *("bias_correction", "spacing", "orientation", "histogram_normalize"),
    *("scale_intensity", "crop_foreground", "resize"),
]
GRIDS = {
    "LAS": {"codes": "LAS"},
    "anisotropic": {"codes": "PSR", "sizes_mm": (3.0, 5.0, 4.0)},
    "oblique": {"codes": "LPS", "tilt_rad": 0.25},
}


class FakeBackend:
    """A backend that labels each image with a given rule."""

    name = "fake"
    details = {"library": "none", "device": "none", "precision": "none", "threads": "0"}  # noqa: RUF012

    def __init__(self, rule: Callable[[Any], Any], spec: ModelSpec) -> None:
        self.rule, self.spec = rule, spec
        self.images: list[Any] = []

    atlas = None

    def answer(self, images: Any) -> Any:
        self.images.append(images)
        return np.stack([self.rule(image[0]) for image in images]).astype(np.uint8)

    def close(self) -> None:
        pass


def brightest(image: Any) -> Any:
    """Label 1 where the network's image is brightest: the phantom's landmark.

    The network grid is the brain's bounding box, an ellipsoid of 60 x 75 x 55 mm
    fills pi/6 of it, and a sphere of 16 mm this share of the box.
    """
    share = np.pi / 6 * 16**3 / (60 * 75 * 55)
    return image > np.quantile(image, 1 - share)


@pytest.fixture(scope="module")
def spec(known_model: Path) -> ModelSpec:
    return ModelSpec.read(known_model / "spec.json")


def on_network_grid(labels: Any) -> Scan:
    image = (labels / np.float32(116)).astype(np.float32)
    return Scan(image, space_of(NETWORK, MNI))


@pytest.fixture(scope="module")
def labels(known_labels: Callable[[int], Any]) -> Any:
    return known_labels(5)


@pytest.fixture(scope="module")
def stages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def as_it_is(labels: Any, spec: ModelSpec, stages: list[str]) -> Parcellation:
    """The parcellation of a scan on the network grid; the backend reads labels from intensities."""
    backend = FakeBackend(lambda image: np.rint(image * 116), spec)
    return Parcellator(backend).parcellate(on_network_grid(labels), "none", progress=stages.append)


@pytest.fixture(scope="module", params=GRIDS)
def stripped(
    request: pytest.FixtureRequest, phantom_on: Callable[..., Any], spec: ModelSpec
) -> tuple[Any, Parcellation, list[str]]:
    """The phantom, its parcellation with preprocessing `stripped`, and the stages reported."""
    phantom = phantom_on(**GRIDS[request.param])
    stages: list[str] = []
    parcellator = Parcellator(FakeBackend(brightest, spec))
    return (
        phantom,
        parcellator.parcellate(phantom.scan(), "stripped", progress=stages.append),
        stages,
    )


def test_on_the_network_grid_labels_are_the_networks_and_volumes_count_their_voxels(
    as_it_is: Parcellation, labels: Any
) -> None:
    assert as_it_is.labels.dtype == np.uint8
    assert np.array_equal(as_it_is.labels, labels)
    assert np.array_equal(as_it_is.network_labels, labels)
    voxels = np.bincount(labels.ravel(), minlength=117)[1:]
    assert [v.voxels for v in as_it_is.volumes] == voxels.tolist()
    expected = voxels * 1.5 * 1.25 * 1.1
    assert [v.volume_mm3 for v in as_it_is.volumes] == pytest.approx(expected.tolist())


def test_seconds_and_progress_name_every_stage_on_the_network_grid(
    as_it_is: Parcellation, stages: list[str]
) -> None:
    assert list(as_it_is.seconds) == ["check", "infer", "restore", "measure"]
    assert all(seconds >= 0 for seconds in as_it_is.seconds.values())
    assert stages == list(as_it_is.seconds)


def test_the_backend_gets_a_batch_of_one_image(labels: Any, spec: ModelSpec) -> None:
    backend = FakeBackend(lambda image: image * 0, spec)
    Parcellator(backend).parcellate(on_network_grid(labels), "none")
    (images,) = backend.images
    assert images.shape == (1, 1, *NETWORK)
    assert images.dtype == np.float32
    assert np.array_equal(images[0, 0], labels / np.float32(116))


def test_labels_come_back_where_they_were_on_the_scans_own_grid(
    stripped: Any, dice: Any, landmark_mm: Any
) -> None:
    phantom, parcellation, _ = stripped
    assert parcellation.labels.shape == phantom.shape
    assert np.array_equal(parcellation.prepared.space.voxel_to_ras, phantom.affine)
    assert dice(parcellation.labels, phantom.labels, 1) > 0.85
    centre = apply_affine(phantom.affine, np.argwhere(parcellation.labels == 1)).mean(axis=0)
    assert np.linalg.norm(centre - landmark_mm) < 2


def test_a_sphere_has_its_volume_and_as_it_is_no_brain_a_warning(stripped: Any) -> None:
    """One sphere of 17 ml and 115 regions missing."""
    _, parcellation, _ = stripped
    assert parcellation.volumes[0].volume_mm3 == pytest.approx(4 / 3 * np.pi * 16**3, rel=0.15)
    assert list(parcellation.seconds) == [*STRIPPED_STEPS, "infer", "restore", "measure"]
    assert any("17 ml" in w or "16 ml" in w or "18 ml" in w for w in parcellation.warnings)
    assert any(w.startswith("115 region(s) missing") for w in parcellation.warnings)


def test_the_two_halves_give_what_the_whole_gives(
    labels: Any, spec: ModelSpec, as_it_is: Parcellation
) -> None:
    """As the service runs them: prepared and restored in two processes."""
    prepared = prepare(on_network_grid(labels), "none", spec.preprocessing_version)
    again = restore_and_measure(prepared, labels, {"infer": 1.0})
    assert np.array_equal(again.labels, as_it_is.labels)
    assert again.volumes == as_it_is.volumes
    assert again.seconds["infer"] == 1.0


@pytest.mark.parametrize(
    ("finder", "preprocessing", "warned"),
    [("", "stripped", True), ("a" * 64, "stripped", False), ("", "full", False)],
)
def test_a_stripped_brain_that_the_finder_did_not_recognise_is_told(
    finder: str, preprocessing: Any, warned: bool, labels: Any, as_it_is: Parcellation
) -> None:
    brain = Brain(np.full(FINDER_SHAPE, 255, np.uint8), np.eye(4), finder_sha256=finder)
    prepared = dataclasses.replace(as_it_is.prepared, preprocessing=preprocessing, brain=brain)
    again = restore_and_measure(prepared, labels, {})
    told = [w for w in again.warnings if "did not recognise" in w]
    assert len(told) == warned
    assert again.warnings[len(told) :] == as_it_is.warnings


def test_another_grid_is_refused_before_the_network_runs(phantom: Any, spec: ModelSpec) -> None:
    backend = FakeBackend(brightest, spec)
    with pytest.raises(NotOnNetworkGrid):
        Parcellator(backend).parcellate(phantom.scan(), "none")
    assert backend.images == []
