"""The brain that a fake network finds, and the one that a scan without skull is."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from neurobento.errors import NoBrainFound, NotABrain
from neurobento.imaging.geometry import FINDER_SHAPE, FINDER_VOXEL_MM
from neurobento.preprocessing import brain as brain_module
from neurobento.preprocessing.brain import brain_of_stripped_scan, find_brain, shown_brain

RADII_MM = (60.0, 75.0, 55.0)
PHANTOM_ML = 4 / 3 * np.pi * np.prod(RADII_MM) / 1000
FINDER_ML = FINDER_VOXEL_MM**3 / 1000
SPEC = SimpleNamespace(onnx_sha256="f" * 64)
GRIDS: dict[str, dict[str, Any]] = {
    "LAS": {"codes": "LAS"},
    "anisotropic": {"codes": "PSR", "sizes_mm": (3.0, 5.0, 4.0)},
    "oblique": {"codes": "LPS", "tilt_rad": 0.5},
}


def boxes(*sides: int) -> Any:
    """Full shares in cubes along the first axis, with empty voxels between them."""
    share, start = np.zeros(FINDER_SHAPE, np.float32), 2
    for side in sides:
        share[start : start + side, 10 : 10 + side, 10 : 10 + side] = 1
        start += side + 3
    return share


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A fake network that answers with a test's arrays and keeps what it was given."""
    fake = SimpleNamespace(share=boxes(40), tissues=np.zeros(FINDER_SHAPE, np.uint8), images=[])

    def run(images: Any) -> dict[str, Any]:
        fake.images.append(images)
        return {"brain": fake.share[None], "tissues": fake.tissues[None]}

    monkeypatch.setattr(brain_module, "_finder", lambda: SimpleNamespace(run=run, spec=SPEC))
    return fake


# --- found by a network ---


def test_the_network_sees_the_head_in_a_batch_of_one(finder: SimpleNamespace, phantom: Any) -> None:
    found = find_brain(phantom.image, phantom.affine)
    images = finder.images[0]
    assert images.shape == (1, 1, *FINDER_SHAPE)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    assert found.volume_ml == pytest.approx(40**3 * FINDER_ML)


def test_the_largest_part_stays_with_its_holes_filled(
    finder: SimpleNamespace, phantom: Any
) -> None:
    finder.share = boxes(10, 40)
    largest = boxes(10, 40)
    largest[:13] = 0
    finder.share[30, 30, 30] = 0
    found = find_brain(phantom.image, phantom.affine)
    assert np.array_equal(found.share, 255 * largest.astype(np.uint8))


def test_shares_stay_in_the_brain_and_one_voxel_beyond_it(
    finder: SimpleNamespace, phantom: Any
) -> None:
    finder.share = np.clip(boxes(40), 0.2, 0.8)
    found = find_brain(phantom.image, phantom.affine).share
    assert found[20, 20, 20] == 204
    assert (found[1, 20, 20], found[0, 20, 20]) == (51, 0)
    assert found[42, 20, 20] == 51
    assert not found[60:].any()


def test_tissue_is_the_brain_without_its_fluid(finder: SimpleNamespace, phantom: Any) -> None:
    """A tenth of the box is of each tissue; air, head, fluid and ventricles do not count."""
    finder.tissues[2:42, 10:50, 10:50] = (np.arange(40) // 4)[None, None]
    found = find_brain(phantom.image, phantom.affine)
    assert found.tissue_ml == pytest.approx(0.6 * found.volume_ml)


@pytest.mark.parametrize(("side", "accepted"), [(0, False), (23, False), (24, True), (54, False)])
def test_a_brain_is_of_250_to_3000_ml(
    finder: SimpleNamespace, phantom: Any, side: int, accepted: bool
) -> None:
    """The sides of cubes, in voxels of 0.0197 ml."""
    finder.share = boxes(side)
    if accepted:
        assert find_brain(phantom.image, phantom.affine).volume_ml > 250
    else:
        with pytest.raises(NoBrainFound, match=f"{side**3 * FINDER_ML:.0f} ml"):
            find_brain(phantom.image, phantom.affine)


# --- found in what a scan without skull shows ---


def test_a_brain_that_is_recognised_is_the_networks_within_what_the_scan_shows(
    finder: SimpleNamespace, phantom: Any
) -> None:
    shown = shown_brain(phantom.image, phantom.affine)
    # a little less than the scan shows at one end, much more at the others
    finder.share = ndimage.binary_dilation(shown.share > 127, iterations=3).astype(np.float32)
    finder.share[:30] = 0
    found = brain_of_stripped_scan(phantom.image, phantom.affine)
    assert 0.75 * shown.volume_ml < found.volume_ml < shown.volume_ml
    # the network's border is moved outwards by a third of a voxel
    assert 90 < found.share[29].max() < 110
    assert not found.share[:27].any()
    assert np.array_equal(found.share[32:], shown.share[32:])
    assert found.finder_sha256 == SPEC.onnx_sha256


def test_what_is_not_recognised_is_taken_as_it_is(finder: SimpleNamespace, phantom: Any) -> None:
    shown = shown_brain(phantom.image, phantom.affine)
    for share in (np.zeros(FINDER_SHAPE, np.float32), (shown.share > 0) * np.float32(0.7)):
        finder.share = share
        finder.share[:48] = 0
        found = brain_of_stripped_scan(phantom.image, phantom.affine)
        assert np.array_equal(found.share, shown.share)
        assert found.finder_sha256 == ""


# --- without skull ---


@pytest.mark.parametrize("name", GRIDS)
def test_the_volume_is_the_ellipsoids_on_any_grid(
    name: str, phantom_on: Callable[..., Any]
) -> None:
    phantom = phantom_on(**GRIDS[name])
    found = shown_brain(phantom.image, phantom.affine)
    assert found.volume_ml == pytest.approx(PHANTOM_ML, rel=0.01)
    assert found.tissue_ml is None


@pytest.mark.parametrize("name", GRIDS)
def test_the_mask_comes_back_onto_the_scans_grid(name: str, phantom_on: Callable[..., Any]) -> None:
    """Voxels whose middle is 3 mm off the surface are all right."""
    phantom = phantom_on(**GRIDS[name])
    mask = shown_brain(phantom.image, phantom.affine).on_grid(phantom.affine, phantom.shape)
    assert (mask.shape, mask.dtype) == (phantom.shape, np.bool_)
    world = apply_affine(phantom.affine, np.moveaxis(np.indices(phantom.shape), 0, -1))
    for margin, truth in ((-4, True), (4, False)):
        radius = np.linalg.norm(world / (np.array(RADII_MM) + margin), axis=-1)
        clear = radius < 1 if truth else radius > 1
        assert (mask[clear] == truth).all()


def test_holes_are_filled_and_islands_left_out(phantom: Any) -> None:
    whole = shown_brain(phantom.image, phantom.affine)
    array = phantom.image.copy()
    middle = tuple(n // 2 for n in array.shape)
    array[tuple(slice(n - 2, n + 2) for n in middle)] = 0
    array[:2, :2, :2] = 15
    again = shown_brain(array, phantom.affine)
    assert again.volume_ml == pytest.approx(whole.volume_ml, rel=1e-3)
    masks = [found.on_grid(phantom.affine, phantom.shape) for found in (again, whole)]
    assert np.array_equal(*masks)


def test_neither_a_head_nor_nothing_is_a_brain(phantom: Any) -> None:
    with pytest.raises(NotABrain, match="found 0 ml in one piece"):
        shown_brain(np.zeros((20, 20, 20), np.float32), np.diag([5.0, 5.0, 5.0, 1.0]))
    with pytest.raises(NotABrain, match=r"found 8\d\d\d ml.*`full`|found 7\d\d\d ml.*`full`"):
        shown_brain(np.ones((40, 40, 40), np.float32), np.diag([5.0, 5.0, 5.0, 1.0]))


def haloed(phantom: Any, brightest: int) -> Any:
    """The phantom as a tool leaves it that blurs: faint noise over two thirds of the volume."""
    halo = np.random.default_rng(3).integers(1, brightest + 1, phantom.shape)
    edge = tuple(slice(n // 16, -(n // 16) or None) for n in phantom.shape)
    array = np.zeros(phantom.shape, np.float32)
    array[edge] = halo[edge]
    return np.where(phantom.image > 0, phantom.image, array)


@pytest.mark.parametrize("brightest", [1, 2, 3])
def test_a_faint_halo_is_no_part_of_the_brain(
    finder: SimpleNamespace, phantom: Any, brightest: int
) -> None:
    """It once was: the scan was too large for a brain, and the user was sent to `full`."""
    known = shown_brain(phantom.image, phantom.affine)
    image = haloed(phantom, brightest)
    assert image.max() >= 20 * brightest
    finder.share = (known.share / 255).astype(np.float32)
    found = brain_of_stripped_scan(image, phantom.affine)
    assert found.volume_ml == pytest.approx(known.volume_ml, rel=0.03)


def test_a_brain_of_a_few_millilitres_is_sent_to_its_header() -> None:
    array = np.zeros((60, 60, 60), np.float32)
    array[10:50, 10:50, 10:50] = 5
    with pytest.raises(NotABrain, match=r"found 64 ml.*voxel sizes in the header"):
        shown_brain(array, np.eye(4))


# --- the network of this repository ---


def test_the_shipped_network_finds_a_drawn_brain() -> None:
    """A head in fluid, skull and skin with the contrast of T1: a wrong output would be far off."""
    from tests.training.brain.head_map import SHAPE, map_values
    from training.brain.drawn_heads import T1
    from training.brain.head_maps import OUTSIDE_SKULL, STRUCTURES

    values = map_values()
    table = np.zeros(256, np.float32)
    for name, members in STRUCTURES.items():
        table[list(members)] = 1000 * T1[name]
    affine = np.eye(4)
    affine[:3, 3] = -np.array(SHAPE) / 2
    found = find_brain(table[values], affine)
    # the fluid of the neck is not brain
    truth = (values > 0) & (values < OUTSIDE_SKULL)
    truth[:, :, :40] = False
    mask = found.on_grid(affine, SHAPE)
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.85
    assert len(found.finder_sha256) == 64
    assert found.tissue_ml is not None
    assert 0.3 < found.tissue_ml / found.volume_ml < 1
