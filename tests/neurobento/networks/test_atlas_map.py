"""Laws of the map network, on small grids: it never runs at its full size here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from scipy.special import softmax
from torch import Tensor
from torch.nn import functional as F

from neurobento.networks import build
from neurobento.networks.atlas_map import BRAIN_STEP, MARGIN, AtlasMap, Learning, Step
from neurobento.networks.layers import to_blocks

SHAPE = (13, 18, 19)
GRID = (40, 45, 38)
LOW = (7, 5, 6)
BRAIN = (21, 27, 23)
"""Odd, so no voxel of an even or odd grid falls halfway between two of the atlas."""

VOXEL_TO_RAS = np.array([[-0.9, 0.1, 0, 30], [0, 1.1, 0.2, -40], [0.1, 0, 1, -20], [0, 0, 0, 1.0]])


def small() -> AtlasMap:
    return AtlasMap((4, 8), (4, 8), brain_shape=BRAIN, shape=SHAPE).eval()


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
    network.take_atlas(*atlas())
    return network


@pytest.fixture
def still(network: AtlasMap) -> AtlasMap:
    """It weighs all bins alike."""
    for step in (network.locate, network.refine):
        torch.nn.init.zeros_(step.out.weight)
        torch.nn.init.zeros_(step.out.bias)
    return network


def images(count: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand((count, 1, *shape), generator=torch.Generator().manual_seed(1))


def laid_over_the_box(shift: tuple[float, float, float] = (0, 0, 0)) -> NDArray[np.uint8]:
    """The whole atlas's labels where the image's box is laid over the brain's, then shifted.

    The faces of the two boxes meet, so voxel i of n lies at (i + 1/2) width / n.
    """
    scale = np.array(BRAIN) / SHAPE
    offset = np.array(LOW) - 0.5 + scale / 2 + shift
    labels = atlas()[0].numpy()
    return np.asarray(
        affine_transform(labels, np.diag(scale), offset, SHAPE, order=0, mode="nearest")
    )


def displace(network: AtlasMap, monkeypatch: pytest.MonkeyPatch, shift: Any) -> None:
    """Let the network's last step displace every block by `shift`, the first not at all."""

    def forward(image: Tensor) -> list[Step]:
        zero = torch.zeros(image.shape[0], 3, *(n // 2 for n in network.padded_shape))
        moved = zero + torch.tensor(shift).float().reshape(1, 3, 1, 1, 1)
        return [Step(d, zero, [], torch.zeros(0), None) for d in (zero, moved)]

    monkeypatch.setattr(network, "forward", forward)


# --- the atlas ---


def test_the_table_is_the_brains_box_and_a_margin(network: AtlasMap) -> None:
    labels, _, _ = atlas()
    box = tuple(slice(a - MARGIN, a + n + MARGIN) for a, n in zip(LOW, BRAIN, strict=True))
    assert torch.equal(network.atlas_labels, labels[box])


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


def test_to_table_takes_the_atlass_world_to_voxels_of_the_table(network: AtlasMap) -> None:
    index = torch.tensor([[0.0, 0, 0], [3, 7, 2], [12.5, 20.25, 18.75]]).T.double()
    in_atlas = index.numpy() + np.array(LOW)[:, None] - MARGIN
    world = nib.affines.apply_affine(VOXEL_TO_RAS, in_atlas.T).T
    positions = torch.from_numpy(world).reshape(1, 3, 3, 1, 1).float()
    found = network.to_table(positions)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.reshape(3, 3).double(), index, rtol=0, atol=1e-4)


def test_to_table_undoes_atlas_voxel_to_ras(network: AtlasMap) -> None:
    voxels = torch.rand((2, 3, 4, 5, 6), generator=torch.Generator().manual_seed(2)).double() * 30
    matrix = network.atlas_voxel_to_ras
    world = torch.einsum("ij,njxyz->nixyz", matrix[:3, :3], voxels)
    world += matrix[:3, 3].reshape(1, 3, 1, 1, 1)
    torch.testing.assert_close(network.to_table(world), voxels, rtol=0, atol=1e-9)


@torch.inference_mode()
def test_a_state_dict_carries_the_atlas(network: AtlasMap) -> None:
    other = small()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.atlas_labels, network.atlas_labels)
    assert torch.equal(other.atlas_brain, network.atlas_brain)
    assert torch.equal(other.atlas_voxel_to_ras, network.atlas_voxel_to_ras)
    assert torch.equal(other.labels(images(1)), network.labels(images(1)))


# --- steps ---


@torch.inference_mode()
def test_forward_displaces_blocks_of_two_twice(network: AtlasMap) -> None:
    steps = network(images(2))
    assert len(steps) == 2
    for step in steps:
        assert step.displacements.shape == (2, 3, 8, 10, 10)
        assert step.displacements.dtype == torch.float32
        bins = (2, len(step.centres), 8, 10, 10)
        assert [axis.shape for axis in step.logits] == [bins] * 3


@torch.inference_mode()
def test_a_step_moves_by_the_mean_of_its_weighed_bins(network: AtlasMap) -> None:
    for step in network(images(2)):
        weights = np.stack([softmax(axis.numpy(), axis=1) for axis in step.logits], axis=1)
        moved = np.einsum("njbxyz,b->njxyz", weights, step.centres.numpy())
        assert np.abs(moved).mean() > 0.01
        found = (step.displacements - step.before).numpy()
        np.testing.assert_allclose(found, moved, atol=1e-4)


@torch.inference_mode()
def test_the_first_steps_bins_cover_the_table(network: AtlasMap) -> None:
    centres = network(images(1))[0].centres
    assert (centres[0], centres[-1]) == (0, max(network.atlas_labels.shape))
    assert (centres.diff() > 0).all()


@torch.inference_mode()
def test_the_second_steps_bins_reach_as_far_to_both_sides(network: AtlasMap) -> None:
    centres = network(images(1))[1].centres
    torch.testing.assert_close(centres, -centres.flip(0))
    assert (centres[-1], centres[len(centres) // 2]) == (6, 0)
    assert (centres.diff() > 0).all()


@torch.inference_mode()
def test_the_first_step_says_where_in_the_table_and_the_second_how_far_from_there(
    still: AtlasMap,
) -> None:
    first, second = still(images(1))
    middle = torch.full_like(first.displacements, max(still.atlas_labels.shape) / 2)
    torch.testing.assert_close(first.displacements + still.start(), middle)
    torch.testing.assert_close(second.displacements, second.before)


@torch.inference_mode()
def test_the_second_step_goes_on_from_the_first_smoothed(network: AtlasMap) -> None:
    first, second = network(images(1))
    assert torch.equal(first.before, -network.start())
    smooth = F.avg_pool3d(first.displacements, 2)
    doubled = F.interpolate(smooth, scale_factor=2.0, mode="trilinear")
    assert torch.equal(second.before, doubled)
    assert not torch.equal(doubled, first.displacements)


@torch.inference_mode()
@pytest.mark.parametrize(("learning", "place"), [("first", 0), ("second", 1)])
def test_learning_one_step_gives_that_step_alone(
    network: AtlasMap, learning: Learning, place: int
) -> None:
    (step,) = network(images(1), learning)
    expected = network(images(1))[place]
    assert torch.equal(step.displacements, expected.displacements)
    assert torch.equal(step.before, expected.before)
    assert all(map(torch.equal, step.logits, expected.logits))


def test_learning_the_first_step_does_not_compute_the_second(
    network: AtlasMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*_: Tensor) -> Step:
        raise AssertionError("computed")

    monkeypatch.setattr(network.refine, "forward", forward)
    assert len(network(images(1), "first")) == 1
    with pytest.raises(AssertionError, match="computed"):
        network(images(1))


@torch.inference_mode()
def test_blocks_start_where_the_boxes_of_image_and_brain_meet(network: AtlasMap) -> None:
    start = network.start()
    assert start.shape == (1, 3, 8, 10, 10)
    share = (np.indices(start.shape[2:]) + 0.5) * 2 / np.array(SHAPE).reshape(3, 1, 1, 1)
    expected = share * np.array(BRAIN).reshape(3, 1, 1, 1) + MARGIN - 0.5
    np.testing.assert_allclose(start[0].numpy(), expected, atol=1e-4)


@torch.inference_mode()
def test_the_first_step_does_not_see_the_atlas_and_the_second_does(network: AtlasMap) -> None:
    before = [step.displacements for step in network(images(1))]
    network.atlas_brain.copy_(network.atlas_brain.flip(0))
    after = [step.displacements for step in network(images(1))]
    assert torch.equal(before[0], after[0])
    assert (before[1] - after[1]).abs().mean() > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (3.0, -2.0, 1.5)])
def test_the_second_step_sees_the_brain_where_the_first_displaces_to(
    network: AtlasMap, monkeypatch: pytest.MonkeyPatch, shift: tuple[float, float, float]
) -> None:
    """Voxel j of its brain covers 2 j and 2 j + 1 of the atlas: its centre lies at 2 j + 1/2."""
    seen = []
    real = network.refine.forward
    monkeypatch.setattr(
        network.refine, "forward", lambda x, before: seen.append(x) or real(x, before)
    )
    zero = torch.zeros(1, 3, 8, 10, 10)
    moved = zero + torch.tensor(shift).reshape(1, 3, 1, 1, 1)
    monkeypatch.setattr(
        network.locate, "forward", lambda *_: Step(moved, zero, [], torch.zeros(0), None)
    )
    network(images(1))
    voxels = np.indices(network.padded_shape) + 0.5
    scale = (np.array(BRAIN) / SHAPE).reshape(3, 1, 1, 1)
    there = voxels * scale + MARGIN - 0.5 + np.array(shift).reshape(3, 1, 1, 1)
    cells = np.rint((there - 0.5) / BRAIN_STEP).astype(int)
    brain = network.atlas_brain.numpy()
    limits = np.array(brain.shape).reshape(3, 1, 1, 1) - 1
    x, y, z = np.clip(cells, 0, limits)
    expected = to_blocks(torch.from_numpy(brain[x, y, z] / 255)[None, None].float())
    assert expected.any()
    same = torch.isclose(seen[0][:, -8:], expected).float().mean()
    assert same > 0.99


@torch.inference_mode()
def test_only_the_first_step_names_classes_and_only_while_it_trains(network: AtlasMap) -> None:
    assert [step.classes for step in network(images(1))] == [None, None]
    first, second = network.train()(images(2))
    assert first.classes is not None
    assert first.classes.shape == (2, 117, 8, 10, 10)
    assert second.classes is None


@torch.inference_mode()
def test_a_batch_equals_its_scans_one_by_one(network: AtlasMap) -> None:
    """A rounding error may choose a neighbour in the atlas, so a few blocks may differ."""
    batch = images(2)
    singles = zip(*(network(image[None]) for image in batch), strict=True)
    for step, parts in zip(network(batch), singles, strict=True):
        together, alone = step.displacements, torch.cat([p.displacements for p in parts])
        assert (together[0] - together[1]).abs().mean() > 1e-2
        assert ((together - alone).abs() < 1e-3).float().mean() > 0.99
    labels = torch.cat([network.labels(image[None]) for image in batch])
    assert (network.labels(batch) == labels).float().mean() > 0.99


def loss_of(step: Step) -> Tensor:
    loss = step.displacements.square().mean() + torch.stack(step.logits).square().mean()
    return loss if step.classes is None else loss + step.classes.square().mean()


def learnt(network: AtlasMap) -> set[str]:
    """The parts of the network whose weights have a slope."""
    return {n.split(".")[0] for n, p in network.named_parameters() if p.grad is not None}


def test_every_parameter_learns_from_both_steps(network: AtlasMap) -> None:
    torch.stack([loss_of(step) for step in network.train()(images(1))]).sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(("place", "name"), [(0, "locate"), (1, "refine")])
def test_a_step_teaches_nothing_to_the_other(network: AtlasMap, place: int, name: str) -> None:
    loss_of(network.train()(images(1))[place]).backward()
    assert learnt(network) == {name}


@pytest.mark.parametrize(("learning", "name"), [("first", "locate"), ("second", "refine")])
def test_learning_one_step_teaches_that_step_alone(
    network: AtlasMap, learning: Learning, name: str
) -> None:
    torch.stack([loss_of(step) for step in network.train()(images(1), learning)]).sum().backward()
    assert learnt(network) == {name}


# --- labels ---


@torch.inference_mode()
def test_a_network_that_displaces_nothing_lays_the_atlas_over_the_grid(
    network: AtlasMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    displace(network, monkeypatch, (0.0, 0.0, 0.0))
    labels = network.labels(images(1))
    assert labels.dtype == torch.uint8
    assert np.array_equal(labels[0].numpy(), laid_over_the_box())


@torch.inference_mode()
@pytest.mark.parametrize("shift", [(2.0, 0.0, 0.0), (0.0, -3.0, 1.0), (1.2, 2.9, -2.1)])
def test_labels_are_the_atlass_where_the_last_step_displaces_to(
    network: AtlasMap, monkeypatch: pytest.MonkeyPatch, shift: tuple[float, float, float]
) -> None:
    displace(network, monkeypatch, shift)
    expected = laid_over_the_box(shift)
    assert (expected != laid_over_the_box()).mean() > 0.9
    assert np.array_equal(network.labels(images(2))[1].numpy(), expected)


@torch.inference_mode()
@pytest.mark.parametrize("end", [-1, 1])
def test_labels_never_leave_the_table(
    network: AtlasMap, monkeypatch: pytest.MonkeyPatch, end: int
) -> None:
    network.atlas_labels[0, 0, 0], network.atlas_labels[-1, -1, -1] = 98, 99
    displace(network, monkeypatch, (end * 1000.0,) * 3)
    assert network.labels(images(1)).unique().tolist() == [98 if end < 0 else 99]


@torch.inference_mode()
def test_labels_are_read_where_the_last_step_ends_up() -> None:
    """On a grid without padding: between blocks the positions are interpolated."""
    torch.manual_seed(0)
    network = AtlasMap((4, 8), (4, 8), brain_shape=BRAIN, shape=(16, 24, 16)).eval()
    network.take_atlas(*atlas())
    step = network(images(1, (16, 24, 16)))[-1]
    positions = network.start() + step.displacements
    there = F.interpolate(positions, scale_factor=2.0, mode="trilinear", align_corners=False)[0]
    # beyond the outermost centres nothing is interpolated, and near halves rounding may differ
    clear = ((there - there.floor() - 0.5).abs() > 1e-3).all(dim=0)
    clear[[0, -1]] = clear[:, [0, -1]] = clear[:, :, [0, -1]] = False
    x, y, z = (
        axis.round().long().clamp(0, n - 1)
        for axis, n in zip(there, network.atlas_labels.shape, strict=True)
    )
    expected = network.atlas_labels[x, y, z]
    assert clear.float().mean() > 0.6
    assert torch.equal(network.labels(images(1, (16, 24, 16)))[0][clear], expected[clear])


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(13, 18, 19), (16, 24, 16), (17, 9, 10)])
def test_labels_cover_the_image_at_odd_and_even_sizes(shape: tuple[int, int, int]) -> None:
    network = AtlasMap((4, 8), (4, 8), brain_shape=BRAIN, shape=shape).eval()
    assert network.labels(images(2, shape)).shape == (2, *shape)


# --- the default network and its parts ---


def test_the_default_network_has_a_table_of_the_atlass_brain() -> None:
    network = build("atlas_map")
    assert isinstance(network, AtlasMap)
    assert network.shape == (91, 122, 123)
    assert network.atlas_labels.shape == (152, 188, 160)
    assert network.atlas_brain.shape == (76, 94, 80)
    assert network.atlas_labels.dtype == torch.uint8


def test_the_default_network_takes_an_atlas_of_such_a_brain() -> None:
    """On Colin27's grid its brain begins four voxels above the lowest slice."""
    brain = torch.zeros((181, 217, 181), dtype=torch.uint8)
    brain[18:162, 19:199, 4:156] = 100
    labels = torch.zeros_like(brain)
    labels[18, 19, 4] = 7
    voxel_to_ras = torch.eye(4, dtype=torch.float64)
    voxel_to_ras[:3, 3] = torch.tensor([-90.0, -125.0, -71.0])
    network = build("atlas_map")
    network.take_atlas(labels, brain, voxel_to_ras)
    assert torch.nonzero(network.atlas_labels).tolist() == [[MARGIN] * 3]
    assert network.atlas_voxel_to_ras[:3, 3].tolist() == [-76.0, -110.0, -71.0]


@pytest.mark.shared
def test_the_default_network_takes_the_atlas_itself(shared: Path) -> None:
    brain, labels = (nib.load(shared / "atlas" / f"{n}.nii.gz") for n in ("ch2bet", "aal"))
    arrays = [torch.from_numpy(np.asarray(i.dataobj).astype(np.uint8)) for i in (labels, brain)]
    network = build("atlas_map")
    network.take_atlas(*arrays, torch.from_numpy(np.asarray(brain.affine, np.float64)))
    counts = network.atlas_labels.flatten().bincount(minlength=117)
    whole = arrays[0].flatten().bincount(minlength=117)
    assert torch.equal(counts[1:], whole[1:])


@pytest.mark.parametrize(
    ("shape", "widths", "padded"),
    [
        ((13, 18, 19), (4, 4), (16, 20, 20)),
        ((16, 16, 8), (4, 4), (16, 16, 8)),
        ((91, 122, 123), (4, 4, 4, 4), (96, 128, 128)),
    ],
)
def test_padding_is_the_next_multiple_of_the_strides(
    shape: tuple[int, int, int], widths: tuple[int, ...], padded: tuple[int, int, int]
) -> None:
    network = AtlasMap(widths, widths, brain_shape=BRAIN, shape=shape)
    assert network.padded_shape == padded
