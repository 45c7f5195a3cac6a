"""Laws of the map network, on small grids: it never runs at its full size here."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, center_of_mass, map_coordinates
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import functional as F

from neurobento.networks import build
from neurobento.networks.atlas_map import CODE_SCALE, LANDMARK_RADII, MARGIN, AtlasMap
from neurobento.networks.compact import Compact
from neurobento.networks.layers import to_blocks

SHAPE = (19, 26, 21)
BLOCKS = (6, 8, 6)
GRID = (40, 45, 38)
LOW = (7, 5, 6)
BRAIN = (21, 27, 23)
"""Odd, so no voxel of an even or odd grid falls halfway between two of the atlas."""

VOXEL_TO_RAS = np.array([[-0.9, 0.1, 0, 30], [0, 1.1, 0.2, -40], [0.1, 0, 1, -20], [0, 0, 0, 1.0]])


def small(shape: tuple[int, int, int] = SHAPE) -> AtlasMap:
    regions = Compact(widths=(4, 4, 4), head_width=4, shape=shape)
    return AtlasMap(regions, (8, 8), brain_shape=BRAIN, shape=shape).eval()


def atlas() -> tuple[Tensor, Tensor, Tensor]:
    """Other labels in every voxel, a brain of grey values up to 200, and a sheared affine."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 117, GRID, generator=generator, dtype=torch.uint8)
    brain = torch.zeros(GRID, dtype=torch.uint8)
    box = tuple(slice(a, a + n) for a, n in zip(LOW, BRAIN, strict=True))
    brain[box] = torch.randint(1, 200, BRAIN, generator=generator, dtype=torch.uint8)
    brain[20, 20, 20] = 200
    return labels, brain, torch.from_numpy(VOXEL_TO_RAS.copy())


@pytest.fixture
def network() -> AtlasMap:
    """With random weights and an atlas."""
    torch.manual_seed(0)
    network = small()
    torch.nn.init.normal_(network.correct.out.weight, std=0.05)
    network.take_atlas(*atlas())
    return network


def images(count: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand((count, 1, *shape), generator=torch.Generator().manual_seed(1))


def laid_over_the_box(
    shift: tuple[float, float, float] = (0, 0, 0), turn: NDArray[np.float64] | None = None
) -> NDArray[np.uint8]:
    """The whole atlas's labels where the image's box is laid over the brain's, then moved.

    The faces of the two boxes meet, so voxel i of n lies at (i + 1/2) width / n.
    A turn is about the origin of the table.
    """
    turn = np.eye(3) if turn is None else turn
    scale, origin = np.array(BRAIN) / SHAPE, np.array(LOW) - MARGIN
    offset = turn @ (MARGIN - 0.5 + scale / 2) + shift + origin
    labels = atlas()[0].numpy()
    return np.asarray(
        affine_transform(labels, turn @ np.diag(scale), offset, SHAPE, order=0, mode="nearest")
    )


def displace(network: AtlasMap, monkeypatch: pytest.MonkeyPatch, shift: Any) -> None:
    """Let the network's last map displace every block by `shift`, those before not at all."""

    def forward(image: Tensor) -> list[Tensor]:
        zero = torch.zeros(image.shape[0], 3, *BLOCKS)
        return [zero, zero, zero + torch.tensor(shift).float().reshape(1, 3, 1, 1, 1)]

    monkeypatch.setattr(network, "forward", forward)


# --- the atlas ---


def test_the_table_is_the_brains_box_and_a_margin_and_its_centres_are_scipys(
    network: AtlasMap,
) -> None:
    labels, _, _ = atlas()
    box = tuple(slice(a - MARGIN, a + n + MARGIN) for a, n in zip(LOW, BRAIN, strict=True))
    assert torch.equal(network.atlas_labels, labels[box])
    labels = network.atlas_labels.numpy()
    expected = center_of_mass(np.ones_like(labels), labels, range(1, 117))
    np.testing.assert_allclose(network.atlas_centres.numpy(), expected, atol=1e-3)


def test_the_brain_has_half_the_atlass_resolution(network: AtlasMap) -> None:
    """Each of its voxels is the mean of eight; the atlas's brightest is 255."""
    _, brain, _ = atlas()
    halves = [n // 2 for n in network.atlas_labels.shape]
    assert list(network.atlas_brain.shape) == halves
    low = [a - MARGIN for a in LOW]
    box = tuple(slice(a, a + 2 * n) for a, n in zip(low, halves, strict=True))
    x, y, z = halves
    means = brain[box].double().reshape(x, 2, y, 2, z, 2).mean(dim=(1, 3, 5))
    assert (network.atlas_brain.double() - means * (255 / 200)).abs().max() <= 0.5 + 1e-4


def test_the_atlass_codes_are_means_of_its_blocks(network: AtlasMap) -> None:
    x, y, z = (n // 4 for n in network.atlas_labels.shape)
    voxels = network.atlas_labels[: 4 * x, : 4 * y, : 4 * z].long()
    codes = network.codes[voxels].double().reshape(x, 4, y, 4, z, 4, 16)
    assert network.atlas_codes.shape == (1, 16, x, y, z)
    found = network.atlas_codes[0].movedim(0, -1).double() / CODE_SCALE
    assert (found - codes.mean(dim=(1, 3, 5))).abs().max() <= 0.5 / CODE_SCALE + 1e-6


def test_every_network_gives_a_class_the_same_code() -> None:
    """And hardly any other class has it."""
    codes = small().codes
    assert codes.shape == (117, 16)
    assert codes.abs().unique().tolist() == [0.25]
    assert len(codes.unique(dim=0)) >= 116
    torch.manual_seed(1)
    assert torch.equal(small().codes, codes)


def test_the_callers_atlas_is_neither_modified_nor_shared(network: AtlasMap) -> None:
    given, table = atlas(), network.state_dict()
    kept = [values.clone() for values in table.values()]
    network.take_atlas(*given)
    for part, before in zip(given, atlas(), strict=True):
        assert torch.equal(part, before)
        part.zero_()
    assert all(map(torch.equal, table.values(), kept))


@pytest.mark.parametrize("axis", range(3))
def test_a_brain_of_another_size_is_refused(network: AtlasMap, axis: int) -> None:
    labels, brain, voxel_to_ras = atlas()
    brain.narrow(axis, LOW[axis], 1).zero_()
    found = [n - (i == axis) for i, n in enumerate(BRAIN)]
    message = rf"expected a brain of \(21, 27, 23\) voxels, found \({', '.join(map(str, found))}\)"
    with pytest.raises(ValueError, match=message):
        network.take_atlas(labels, brain, voxel_to_ras)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("end", ["low", "high"])
def test_a_brain_too_near_the_edge_is_refused(network: AtlasMap, axis: int, end: str) -> None:
    labels, brain, voxel_to_ras = atlas()
    space = GRID[axis] - BRAIN[axis] - LOW[axis]
    moves = LOW[axis] - MARGIN + 1 if end == "low" else MARGIN - 1 - space
    brain = brain.roll(-moves, axis)
    with pytest.raises(ValueError, match="expected 4 voxels around the brain, found 3"):
        network.take_atlas(labels, brain, voxel_to_ras)


@pytest.mark.parametrize("missing", [[1], [116], [7, 44]])
def test_an_atlas_without_a_region_is_refused(missing: list[int]) -> None:
    """Also where the region is on the grid, but beyond the box; no part of it is kept."""
    network = small()
    labels, brain, voxel_to_ras = atlas()
    labels[torch.isin(labels, torch.tensor(missing).byte())] = 0
    labels[0, 0, 0] = missing[0]
    message = rf"expected all 116 regions, found none of \[{', '.join(map(str, missing))}\]"
    with pytest.raises(ValueError, match=message):
        network.take_atlas(labels, brain, voxel_to_ras)
    assert not network.atlas_labels.any()
    assert not network.atlas_centres.any()


def test_to_table_takes_the_atlass_world_to_voxels_of_the_table_and_undoes_voxel_to_ras(
    network: AtlasMap,
) -> None:
    index = torch.tensor([[0.0, 0, 0], [3, 7, 2], [12.5, 20.25, 18.75]]).T.double()
    in_atlas = index.numpy() + np.array(LOW)[:, None] - MARGIN
    world = nib.affines.apply_affine(VOXEL_TO_RAS, in_atlas.T).T
    positions = torch.from_numpy(world).reshape(1, 3, 3, 1, 1).float()
    found = network.to_table(positions)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.reshape(3, 3).double(), index, rtol=0, atol=1e-4)
    voxels = torch.rand((2, 3, 4, 5, 6), generator=torch.Generator().manual_seed(2)).double() * 30
    matrix = network.atlas_voxel_to_ras
    world = torch.einsum("ij,njxyz->nixyz", matrix[:3, :3], voxels)
    world += matrix[:3, 3].reshape(1, 3, 1, 1, 1)
    torch.testing.assert_close(network.to_table(world), voxels, rtol=0, atol=1e-9)


@torch.inference_mode()
def test_a_state_dict_carries_the_atlas(network: AtlasMap) -> None:
    other = small()
    other.load_state_dict(network.state_dict())
    for name in ("labels", "brain", "codes", "centres", "voxel_to_ras"):
        kept: Tensor = getattr(network, f"atlas_{name}")
        assert kept.any()
        assert torch.equal(getattr(other, f"atlas_{name}"), kept)
    assert torch.equal(other.labels(images(1)), network.labels(images(1)))


@torch.inference_mode()
def test_blocks_start_where_the_boxes_of_image_and_brain_meet(network: AtlasMap) -> None:
    start = network.start()
    assert start.shape == (1, 3, *BLOCKS)
    share = (np.indices(BLOCKS) + 0.5) * 4 / np.array(SHAPE).reshape(3, 1, 1, 1)
    expected = share * np.array(BRAIN).reshape(3, 1, 1, 1) + MARGIN - 0.5
    np.testing.assert_allclose(start[0].numpy(), expected, atol=1e-4)


# --- from centres of mass to a map ---


WHOLE = (40, 48, 40)
"""Of image and brain alike: a voxel starts at its own place in the brain."""

CENTRE = np.array(WHOLE) / 2 + MARGIN - 0.5


class Reading(Compact):
    """Reads a voxel's class off its intensity, k/116, instead of learning it."""

    def block_shares(self, features: Tensor, blocks: Tensor) -> Tensor:
        classes = (blocks * 116).round().long()
        return F.one_hot(classes, 117).float().mean(dim=1).movedim(-1, 1)


@functools.cache
def middles() -> NDArray[np.float64]:
    """116 points in the unit ball, each as far from those before it as can be."""
    random = np.random.default_rng(4)
    points = random.uniform(-1, 1, (4000, 3))
    points = points[(points**2).sum(axis=1) < 1]
    kept = [points[0]]
    while len(kept) < 116:
        gaps = ((points[:, None] - np.array(kept)) ** 2).sum(axis=2).min(axis=1)
        kept.append(points[gaps.argmax()])
    return np.array(kept)


def cells(places: NDArray[np.float64]) -> NDArray[np.uint8]:
    """An ellipsoid of 116 cells, each around a point of its own; of places in the table."""
    there = (places.reshape(3, -1).T - CENTRE) / (15.0, 19.0, 14.0)
    inside = (there**2).sum(axis=1) < 1
    found = np.zeros(len(there), np.uint8)
    found[inside] = KDTree(middles()).query(there[inside])[1] + 1
    return found.reshape(places.shape[1:])


def moves(turn: NDArray[np.float64], shift: tuple[float, float, float]) -> Any:
    """Where voxels of the image lie in the table by an affine map about the brain's middle."""

    def move(places: NDArray[np.float64]) -> NDArray[np.float64]:
        about = places - CENTRE.reshape(3, 1, 1, 1)
        turned = np.einsum("ij,jxyz->ixyz", turn, about)
        return np.asarray(turned + (CENTRE + shift).reshape(3, 1, 1, 1))

    return move


SHEARED = np.array([[0.97, 0.12, 0.0], [-0.1, 1.02, 0.05], [0.0, -0.06, 0.95]])
MOVES = [
    moves(np.eye(3), (0.0, 0.0, 0.0)),
    moves(np.eye(3), (3.0, -2.0, 1.5)),
    moves(SHEARED, (0.0, 0.0, 0.0)),
    moves(SHEARED, (-2.0, 1.0, 2.0)),
]


@pytest.fixture(scope="module")
def one_whole() -> AtlasMap:
    """A fresh network on an atlas of cells, which sees a class where the intensity says so."""
    torch.manual_seed(0)
    regions = Reading(widths=(4, 4, 4), head_width=4, shape=WHOLE)
    network = AtlasMap(regions, (8, 8), brain_shape=WHOLE, shape=WHOLE).eval()
    table = tuple(n + 2 * MARGIN for n in WHOLE)
    labels = torch.from_numpy(cells(np.indices(table).astype(float)))
    brain = torch.zeros(table)
    inside = tuple(slice(MARGIN, MARGIN + n) for n in WHOLE)
    brain[inside] = 0.05 + torch.rand(WHOLE, generator=torch.Generator().manual_seed(3))
    network.take_atlas(labels, brain, torch.eye(4, dtype=torch.float64))
    return network


@pytest.fixture
def whole(one_whole: AtlasMap) -> AtlasMap:
    """That network, for a test to change."""
    return copy.deepcopy(one_whole)


def seen_by(move: Any) -> Tensor:
    """The image that shows the atlas's classes where they lie by a map."""
    places = move(np.indices(WHOLE) + float(MARGIN))
    return torch.from_numpy(cells(places) / np.float32(116))[None, None]


def far_off(network: AtlasMap, displacements: Tensor, move: Any) -> Tensor:
    """Voxels between a map and the true one, of each block with a region in it."""
    start = network.start()[0].double().numpy()
    true = torch.from_numpy(move(start) - start)
    inside = torch.from_numpy(cells(move(start)) > 0)
    return (displacements[0].double() - true).norm(dim=0)[inside]


@torch.inference_mode()
@pytest.mark.parametrize("move", MOVES, ids=["none", "shifted", "sheared", "both"])
def test_the_centres_of_mass_give_an_affine_map(whole: AtlasMap, move: Any) -> None:
    found, *_ = whole(seen_by(move))
    gaps = far_off(whole, found, move)
    assert gaps.mean() < 0.3
    assert gaps.max() < 1.0
    if move is not MOVES[0]:
        assert far_off(whole, torch.zeros_like(found), move).mean() > 1


@torch.inference_mode()
def test_the_centres_of_mass_bend_the_map_where_it_is_not_affine(
    whole: AtlasMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bow along y; centres reach as far as they do in a brain that is four times as wide."""
    radii = tuple(radius / 4 for radius in LANDMARK_RADII)
    monkeypatch.setattr("neurobento.networks.atlas_map.LANDMARK_RADII", radii)

    def bend(places: NDArray[np.float64]) -> NDArray[np.float64]:
        moved = places.copy()
        moved[0] += 6 * np.cos((places[1] - CENTRE[1]) / 12)
        return moved

    gaps = far_off(whole, whole(seen_by(bend))[0], bend)
    assert gaps.mean() < 1.0
    start = whole.start()[0].double().numpy()
    design = np.concatenate([start, np.ones_like(start[:1])]).reshape(4, -1).T
    inside = cells(bend(start)).ravel() > 0
    true = bend(start).reshape(3, -1).T[inside]
    affine = np.linalg.lstsq(design[inside], true, rcond=None)[0]
    rest = np.linalg.norm(design[inside] @ affine - true, axis=1)
    assert gaps.mean() < 0.5 * rest.mean()


@torch.inference_mode()
@pytest.mark.parametrize("seen", [(), (0,), (40,), (40, 41, 42)])
def test_regions_with_no_share_at_all_leave_the_map_finite(
    whole: AtlasMap, seen: tuple[int, ...]
) -> None:
    """Where nothing is seen, nothing but background, or so few that many affine maps fit."""
    shares = torch.zeros(2, 117, *(n // 4 for n in WHOLE))
    for place, index in enumerate(seen, start=3):
        shares[:, index, place, 5, 4] = 1
    found = whole._from_centres(shares)
    assert found.shape == (2, 3, *shares.shape[2:])
    assert found.isfinite().all()


@torch.inference_mode()
def test_a_region_that_is_not_seen_pulls_nowhere_and_half_precision_leaves_the_map_alone(
    whole: AtlasMap,
) -> None:
    image = seen_by(MOVES[3])
    expected, *_ = whole(image)
    with torch.autocast("cpu", torch.bfloat16):
        maps = whole(image)
    torch.testing.assert_close(maps[0], expected, rtol=0, atol=1e-3)
    assert {found.dtype for found in maps} == {torch.float32}
    image[(image * 116).round() == 40] = 0
    assert far_off(whole, whole(image)[0], MOVES[3]).max() < 1.5


# --- corrections ---


@torch.inference_mode()
@pytest.mark.parametrize("updates", [0, 1, 4])
def test_forward_gives_the_map_before_and_after_each_correction(updates: int) -> None:
    torch.manual_seed(0)
    regions = Compact(widths=(4, 4, 4), head_width=4, shape=SHAPE)
    network = AtlasMap(regions, (8, 8), updates, brain_shape=BRAIN, shape=SHAPE).eval()
    network.take_atlas(*atlas())
    maps = network(images(2))
    assert [found.shape for found in maps] == [(2, 3, *BLOCKS)] * (updates + 1)
    assert {found.dtype for found in maps} == {torch.float32}


@torch.inference_mode()
def test_a_fresh_correction_changes_nothing(whole: AtlasMap) -> None:
    first, *corrected = whole(seen_by(MOVES[3]))
    assert len(corrected) == 3
    assert all(torch.equal(found, first) for found in corrected)


@torch.inference_mode()
def test_the_corrections_add_up_in_blocks(
    network: AtlasMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = iter((1.0, 0.5, -0.25))
    monkeypatch.setattr(
        network.correct, "forward", lambda _: torch.full((1, 3, *BLOCKS), next(parts))
    )
    first, *corrected = network(images(1))
    for found, voxels in zip(corrected, (4.0, 6.0, 5.0), strict=True):
        torch.testing.assert_close(found, first + voxels)


def given_to_corrections(network: AtlasMap, image: Tensor, shift: Any) -> list[Tensor]:
    """What each correction of a map sees, the map being `shift` everywhere."""
    seen: list[Tensor] = []
    still = torch.tensor(shift).float().reshape(1, 3, 1, 1, 1)
    zero = network.start() * 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "_from_centres", lambda _: zero + still)
        patch.setattr(network.correct, "forward", lambda x: seen.append(x) or zero)
        network(image)
    return seen


SHIFTS = [(0.0, 0.0, 0.0), (3.0, -2.0, 1.5)]
OF_IMAGE, OF_BRAIN = slice(3, 11), slice(11, 19)
COARSE, TURN, MASK, GAP, FORCE = slice(22, 26), 30, 31, 32, slice(33, 36)


@torch.inference_mode()
@pytest.mark.parametrize("shift", SHIFTS)
def test_a_correction_sees_the_brain_where_the_map_displaces_to(
    network: AtlasMap, shift: tuple[float, float, float]
) -> None:
    """Voxel j of its brain covers 2 j and 2 j + 1 of the atlas: its centre lies at 2 j + 1/2."""
    seen, *_ = given_to_corrections(network, images(1), shift)
    halves = np.indices([n // 2 for n in network.padded_shape]) + 0.5
    scale = (np.array(BRAIN) / SHAPE).reshape(3, 1, 1, 1)
    there = 2 * halves * scale + MARGIN - 0.5 + np.array(shift).reshape(3, 1, 1, 1)
    brain = network.atlas_brain.numpy() / 255.0
    read = map_coordinates(brain, (there - 0.5) / 2, order=1, mode="nearest")
    expected = to_blocks(torch.from_numpy(read)[None, None].float())
    assert expected.any()
    torch.testing.assert_close(seen[:, OF_BRAIN], expected, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_a_correction_sees_the_image_and_where_it_ends_and_which_correction_it_is(
    network: AtlasMap,
) -> None:
    image = images(1) + 0.1
    seen, *_ = given_to_corrections(network, image, SHIFTS[0])
    padded = F.pad(image, (0, 3, 0, 6, 0, 5))
    blocks = to_blocks(F.avg_pool3d(padded, 2))
    torch.testing.assert_close(seen[:, OF_IMAGE], blocks)
    assert torch.equal(seen[:, MASK] > 0, blocks.sum(dim=1) > 0)
    assert 0 < seen[:, MASK].mean() < 1
    turns = given_to_corrections(network, images(1), SHIFTS[0])
    assert [x[:, TURN].unique().tolist() for x in turns] == [[-1.0], [0.0], [1.0]]


@torch.inference_mode()
def test_a_correction_sees_that_a_true_map_leaves_no_gap(whole: AtlasMap) -> None:
    """A shift of whole blocks, so no block is read between two of the atlas."""
    true, wrong = (4.0, 0.0, -4.0), (0.0, 0.0, 0.0)
    image = seen_by(moves(np.eye(3), true))
    right, off = (given_to_corrections(whole, image, shift)[0] for shift in (true, wrong))
    # blocks beyond the table are read from its edge
    inside = slice(2, -2)
    assert right[:, GAP, inside, inside, inside].max() < 1e-3
    assert right[:, FORCE, inside, inside, inside].abs().max() < 0.01
    assert off[:, GAP].max() > 0.1


@torch.inference_mode()
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("voxels", [-2.0, 2.0])
def test_a_correction_sees_which_way_a_map_is_off(
    whole: AtlasMap, axis: int, voxels: float
) -> None:
    """On the whole the regions pull a shifted map back along the axis that it is off."""
    image = seen_by(MOVES[0])
    seen, *_ = given_to_corrections(whole, image, [voxels * (i == axis) for i in range(3)])
    pull = seen[0, FORCE].mean(dim=(1, 2, 3))
    assert pull[axis] * voxels < 0
    assert pull.abs().argmax() == axis


@torch.inference_mode()
def test_a_correction_sees_how_alike_image_and_brain_are(whole: AtlasMap) -> None:
    """The brain itself, shown where the map looks for it, is as like as can be."""
    brain = F.interpolate(whole.atlas_brain[None, None].float() / 255, scale_factor=2.0)
    image = brain[(..., *(slice(MARGIN, MARGIN + n) for n in WHOLE))]
    right, off = (
        given_to_corrections(whole, image, shift)[0][0, COARSE][0, 1:-1, 1:-1, 1:-1]
        for shift in ((0.0, 0.0, 0.0), (8.0, 0.0, 0.0))
    )
    assert right.mean() > off.mean() + 0.3


@torch.inference_mode()
def test_a_batch_equals_its_scans_one_by_one(whole: AtlasMap) -> None:
    torch.nn.init.normal_(whole.correct.out.weight, std=0.05)
    batch = torch.cat([seen_by(move) for move in MOVES[2:]])
    singles = zip(*(whole(image[None]) for image in batch), strict=True)
    for together, parts in zip(whole(batch), singles, strict=True):
        assert (together[0] - together[1]).abs().mean() > 1
        torch.testing.assert_close(together, torch.cat(parts), rtol=0, atol=1e-2)
    labels = torch.cat([whole.labels(image[None]) for image in batch])
    assert (whole.labels(batch) == labels).float().mean() > 0.99


def test_corrections_get_no_slope_from_those_after_them(network: AtlasMap) -> None:
    first, *corrected = network(images(1))
    assert not first.requires_grad
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert torch.autograd.grad(
            corrected[j].sum(), corrected[i], allow_unused=True, retain_graph=True
        ) == (None,)


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_every_correction_teaches_all_of_its_weights_and_none_of_the_regions(
    network: AtlasMap, turn: int
) -> None:
    network.train()(images(2))[turn].square().mean().backward()
    slopes = {name: p.grad for name, p in network.named_parameters()}
    assert [n for n, s in slopes.items() if n.startswith("regions.") and s is not None] == []
    learnt = {n: s for n, s in slopes.items() if not n.startswith("regions.")}
    assert [n for n, s in learnt.items() if s is None or not s.any()] == []
    assert {name.split(".")[0] for name in learnt} == {"correct"}


# --- labels ---


@torch.inference_mode()
@pytest.mark.parametrize("move", MOVES[1:], ids=["shifted", "sheared", "both"])
def test_a_fresh_network_labels_the_regions_where_it_sees_them(whole: AtlasMap, move: Any) -> None:
    image = seen_by(move)
    truth = (image[:, 0] * 116).round().byte()
    labels = whole.labels(image)
    assert labels.dtype == torch.uint8
    inside = truth > 0
    assert (labels == truth)[inside].float().mean() > 0.8
    unmoved = whole.atlas_labels[(slice(MARGIN, -MARGIN),) * 3][None]
    assert (unmoved == truth)[inside].float().mean() < 0.7


@torch.inference_mode()
@pytest.mark.parametrize(
    "shift", [(0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, -3.0, 1.0), (1.2, 2.9, -2.1)]
)
def test_labels_are_the_atlass_where_the_last_map_displaces_to(
    network: AtlasMap, monkeypatch: pytest.MonkeyPatch, shift: tuple[float, float, float]
) -> None:
    """Without a displacement the atlas is laid over the grid."""
    displace(network, monkeypatch, shift)
    expected = laid_over_the_box(shift)
    if any(shift):
        assert (expected != laid_over_the_box()).mean() > 0.9
    labels = network.labels(images(2))
    assert labels.dtype == torch.uint8
    assert np.array_equal(labels[1].numpy(), expected)
    # a graph gives the same labels, and where the blocks lie
    again, positions = network.outputs(images(2))
    assert torch.equal(again, labels)
    assert positions.dtype == torch.float32
    assert torch.allclose(positions, network.atlas_positions(images(2)).float(), atol=1e-4)


@torch.inference_mode()
def test_between_blocks_the_map_is_interpolated(
    network: AtlasMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shear about the brain's middle stays one; before the first blocks' centres it ends."""
    turn = np.array([[1.0, 0.23, 0.0], [0.0, 1.0, -0.17], [0.13, 0.0, 1.0]])
    middle = np.array(BRAIN) / 2 + MARGIN - 0.5
    x, y, z = middle - turn @ middle
    start = network.start()
    turned = torch.einsum("ij,njxyz->nixyz", torch.from_numpy(turn).float(), start)
    moved = turned + torch.tensor([x, y, z]).float().reshape(1, 3, 1, 1, 1) - start
    monkeypatch.setattr(network, "forward", lambda _: [moved])
    found = network.labels(images(1))[0].numpy()
    expected = laid_over_the_box((x, y, z), turn)
    inside = (slice(3, None),) * 3
    assert (found == expected)[inside].mean() > 0.999
    assert (laid_over_the_box() == expected)[inside].mean() < 0.3


@torch.inference_mode()
@pytest.mark.parametrize("end", [-1, 1])
def test_labels_never_leave_the_table(
    network: AtlasMap, monkeypatch: pytest.MonkeyPatch, end: int
) -> None:
    network.atlas_labels[0, 0, 0], network.atlas_labels[-1, -1, -1] = 98, 99
    displace(network, monkeypatch, (end * 1000.0,) * 3)
    assert network.labels(images(1)).unique().tolist() == [98 if end < 0 else 99]


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(19, 26, 21), (24, 24, 32), (17, 18, 26)])
def test_labels_cover_the_image_at_odd_and_even_sizes(shape: tuple[int, int, int]) -> None:
    network = small(shape)
    network.take_atlas(*atlas())
    assert network.labels(images(2, shape)).shape == (2, *shape)


@torch.inference_mode()
@pytest.mark.parametrize("given", ["network", "whole"])
def test_an_image_of_zeros_has_labels(request: pytest.FixtureRequest, given: str) -> None:
    """Of regions that are seen everywhere a little, and of none at all."""
    network: AtlasMap = request.getfixturevalue(given)
    image = torch.zeros(2, 1, *network.shape)
    assert all(found.isfinite().all() for found in network(image))
    labels = network.labels(image)
    assert (labels.dtype, labels.shape) == (torch.uint8, (2, *network.shape))
    assert torch.equal(labels[0], labels[1])


# --- the default network and its parts ---


def test_the_default_network_has_a_table_of_the_atlass_brain_and_sees_regions_by_compact() -> None:
    network = build("atlas_map")
    assert isinstance(network, AtlasMap)
    assert (network.shape, network.updates) == ((91, 122, 123), 3)
    assert network.atlas_labels.shape == (152, 188, 160)
    assert network.atlas_brain.shape == (76, 94, 80)
    assert network.atlas_codes.shape == (1, 16, 38, 47, 40)
    assert network.atlas_labels.dtype == torch.uint8
    network: Any = build("atlas_map")
    network.regions.load_state_dict(build("compact").state_dict())
    assert not any(p.requires_grad for p in network.regions.parameters())
    assert network.regions.padded_shape == network.padded_shape


def test_the_default_network_takes_an_atlas_of_such_a_brain() -> None:
    """On Colin27's grid its brain begins four voxels above the lowest slice."""
    brain = torch.zeros((181, 217, 181), dtype=torch.uint8)
    brain[18:162, 19:199, 4:156] = 100
    labels = torch.zeros_like(brain)
    labels[18, 19, 4:120] = torch.arange(1, 117)
    voxel_to_ras = torch.eye(4, dtype=torch.float64)
    voxel_to_ras[:3, 3] = torch.tensor([-90.0, -125.0, -71.0])
    network: Any = build("atlas_map")
    network.take_atlas(labels, brain, voxel_to_ras)
    assert network.atlas_labels[MARGIN, MARGIN, MARGIN : MARGIN + 116].tolist() == [*range(1, 117)]
    assert network.atlas_centres[[0, -1]].tolist() == [[MARGIN] * 3, [MARGIN, MARGIN, MARGIN + 115]]
    assert network.atlas_voxel_to_ras[:3, 3].tolist() == [-76.0, -110.0, -71.0]


@pytest.mark.shared
def test_the_default_network_takes_the_atlas_itself(shared: Path) -> None:
    brain, labels = (nib.load(shared / "atlas" / f"{n}.nii.gz") for n in ("ch2bet", "aal"))
    arrays = [torch.from_numpy(np.asarray(i.dataobj).astype(np.uint8)) for i in (labels, brain)]
    network: Any = build("atlas_map")
    network.take_atlas(*arrays, torch.from_numpy(np.asarray(brain.affine, np.float64)))
    counts = network.atlas_labels.flatten().bincount(minlength=117)
    whole = arrays[0].flatten().bincount(minlength=117)
    assert torch.equal(counts[1:], whole[1:])


@torch.inference_mode()
@pytest.mark.parametrize(
    ("depth", "regions"), [(1, 2), (2, 3), (3, 4), (1, 4), (1, 1), (2, 2), (3, 3), (4, 3), (4, 4)]
)
def test_a_correction_is_less_deep_than_the_regions(depth: int, regions: int) -> None:
    """Blocks of a deeper one could not be halved as often: the image is padded for the regions."""
    shape = (13, 18, 19)
    compact = Compact((4,) * regions, head_width=4, shape=shape)
    if depth >= regions:
        with pytest.raises(ValueError, match=f"expected fewer than {depth} widths"):
            AtlasMap(compact, (4,) * depth, brain_shape=BRAIN, shape=shape)
        return
    network = AtlasMap(compact, (4,) * depth, brain_shape=BRAIN, shape=shape).eval()
    network.take_atlas(*atlas())
    blocks = [n // 4 for n in network.padded_shape]
    assert [found.shape for found in network(images(1, shape))] == [(1, 3, *blocks)] * 4


@pytest.mark.parametrize(
    ("shape", "widths", "regions", "padded"),
    [
        ((13, 18, 19), (4, 4), (4, 4, 4), (16, 24, 24)),
        ((13, 18, 19), (4,), (4, 4), (16, 20, 20)),
        ((13, 18, 19), (4,), (4, 4, 4, 4), (16, 32, 32)),
        ((91, 122, 123), (4, 4, 4), (4, 4, 4, 4), (96, 128, 128)),
    ],
)
def test_padding_is_the_next_multiple_of_the_strides(
    shape: tuple[int, int, int],
    widths: tuple[int, ...],
    regions: tuple[int, ...],
    padded: tuple[int, int, int],
) -> None:
    seen_by = Compact(regions, head_width=4, shape=shape)
    network = AtlasMap(seen_by, widths, brain_shape=BRAIN, shape=shape)
    assert network.padded_shape == padded
