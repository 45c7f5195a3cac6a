"""The losses against a one-hot formula, PyTorch's cross-entropy, MONAI's Dice and distances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from neurobento.networks.atlas_map import AtlasMap
from neurobento.networks.compact import Compact
from training.parcellation.loss import OUTSIDE_WEIGHT, dice, dice_cross_entropy, position_loss

SHAPE, CLASSES = (3, 4, 5), 7
VOXELS = 60
BRAIN = (20, 24, 22)


def logits_and_labels(seed: int, present: int = CLASSES, scans: int = 1) -> tuple[Tensor, Tensor]:
    """Random logits, and labels in which each of the first so many classes appears."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(present, (scans, VOXELS), generator=random)
    labels[:, :present] = torch.arange(present)
    logits = 2 * torch.randn((scans, CLASSES, *SHAPE), generator=random)
    return logits, labels.reshape(scans, *SHAPE).byte()


def one_hot(labels: Tensor) -> Tensor:
    """(N, C, X, Y, Z) of labels (N, X, Y, Z)."""
    return F.one_hot(labels.long(), CLASSES).movedim(-1, 1).float()


def of_voxels(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of a sample of voxels, of whole scans."""
    return dice_cross_entropy(logits.movedim(1, -1).flatten(0, 3), labels.flatten().long())


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dice": dice,
    "dice_cross_entropy": of_voxels,
}


def one_hot_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Of one scan, the same said plainly: every tensor is (V, C)."""
    truth = one_hot(labels)[0].flatten(1).T
    p = logits[0].flatten(1).T.softmax(dim=1)
    overlap = (2 * (p * truth).sum(0) + 1) / (p.sum(0) + truth.sum(0) + 1)
    cross_entropy = -(truth * p.log()).sum(1).mean()
    return cross_entropy + 1 - overlap[truth.sum(0) > 0].mean()


@pytest.mark.parametrize("present", [1, 3, CLASSES])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_one_hot_formula(seed: int, present: int) -> None:
    logits, labels = logits_and_labels(seed, present)
    torch.testing.assert_close(of_voxels(logits, labels), one_hot_loss(logits, labels))


@pytest.mark.parametrize("seed", range(3))
def test_with_all_classes_present_it_is_monais_dice_and_torchs_cross_entropy(seed: int) -> None:
    """Over the voxels of all scans together."""
    logits, labels = logits_and_labels(seed, scans=2)
    monais = DiceLoss(softmax=True, to_onehot_y=True, smooth_nr=1.0, smooth_dr=1.0, batch=True)
    expected = monais(logits, labels[:, None]) + F.cross_entropy(logits, labels.long())
    torch.testing.assert_close(of_voxels(logits, labels), expected)


@pytest.mark.parametrize("present", [2, CLASSES])
def test_its_gradient_is_the_one_hot_formulas(present: int) -> None:
    logits, labels = logits_and_labels(4, present)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(of_voxels(logits, labels), logits)
    (expected,) = torch.autograd.grad(one_hot_loss(logits, labels), logits)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("seed", range(3))
def test_reports_loss_is_the_mean_of_one_minus_dice(seed: int) -> None:
    """Report A's equation 3.2, without the smoothing that keeps it finite."""
    logits, labels = logits_and_labels(seed)
    p, truth = logits.softmax(dim=1).flatten(2), one_hot(labels).flatten(2)
    expected = 1 - (2 * (p * truth).sum(2) / (p.sum(2) + truth.sum(2))).mean()
    torch.testing.assert_close(dice(logits, labels), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("present", [1, CLASSES])
def test_reports_loss_is_monais(present: int) -> None:
    logits, labels = logits_and_labels(5, present, scans=2)
    expected = DiceLoss(softmax=True, to_onehot_y=True)(logits, labels[:, None])
    torch.testing.assert_close(dice(logits, labels), expected)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_surer_of_the_truth_the_smaller_the_loss_down_to_nearly_nothing(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    logits, labels = logits_and_labels(7)
    assert loss(50 * one_hot(labels), labels) == pytest.approx(0, abs=1e-5)
    costs = [float(loss(logits + sure * one_hot(labels), labels)) for sure in range(5)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.7 * costs[0]


def test_confident_mistakes_cost_more_than_ignorance() -> None:
    labels = logits_and_labels(7)[1]
    wrong = 50 * one_hot((labels + 1) % CLASSES)
    ignorant = torch.zeros(1, CLASSES, *SHAPE)
    assert of_voxels(wrong, labels) > of_voxels(ignorant, labels) > 1


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_order_of_voxels_does_not_matter(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits, labels = logits_and_labels(8)
    mirrored = logits.flip(2, 3), labels.flip(1, 2)
    torch.testing.assert_close(loss(*mirrored), loss(logits, labels))


def test_a_batchs_report_loss_is_the_mean_of_its_scans() -> None:
    """Scans with classes of their own: a small one must not drown in a large one."""
    parts = [logits_and_labels(seed, present) for seed, present in ((1, 2), (2, 5), (3, 7))]
    logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    singles = torch.stack([dice(*part) for part in parts])
    assert singles.std() > 0.01
    torch.testing.assert_close(dice(logits, labels), singles.mean())


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_fp32(
    loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    logits, labels = logits_and_labels(9)
    logits = logits.to(dtype)
    cost = loss(logits, labels)
    assert cost.dtype == torch.float32
    torch.testing.assert_close(cost, loss(logits.float(), labels))


def test_classes_that_are_not_in_the_sample_have_no_dice() -> None:
    """What is given to them costs the sample's own classes, by cross-entropy and by Dice."""
    logits, labels = logits_and_labels(10, present=3)
    swapped = logits[:, [0, 1, 2, 6, 5, 4, 3]]
    assert not torch.equal(swapped, logits)
    torch.testing.assert_close(of_voxels(swapped, labels), of_voxels(logits, labels))
    # one absent class in place of four
    joined = torch.cat([logits[:, :3], logits[:, 3:].logsumexp(dim=1, keepdim=True)], dim=1)
    torch.testing.assert_close(of_voxels(joined, labels), of_voxels(logits, labels))


# --- positions ---


IMAGE = (17, 21, 18)
"""Padded to 20, 24 and 20, so to 5, 6 and 5 blocks."""

HALVES = (9, 11, 9)


class Told(nn.Module):
    """Stands for an `AtlasMap` whose maps are told to it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        regions = Compact((4, 4), head_width=4, shape=IMAGE)
        self.real = AtlasMap(regions, (8,), brain_shape=BRAIN, shape=IMAGE)
        matrix = [[-2.0, 0, 0, 30], [0, 2, 0.5, -40], [0, 0, 1.5, -20], [0, 0, 0, 1]]
        self.real.atlas_voxel_to_ras.copy_(torch.tensor(matrix))
        self.padded_shape, self.start = self.real.padded_shape, self.real.start
        self.to_table = self.real.to_table
        self.maps: list[Tensor] = []

    def forward(self, _image: Tensor) -> list[Tensor]:
        return self.maps


@pytest.fixture
def told() -> Told:
    return Told()


def scan(network: Told, scans: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Image with brain in the first eight slices, true positions; true displacements.

    Those of a block of 4 x 4 x 4 voxels are the mean of its eight halves'.
    """
    random = torch.Generator().manual_seed(3)
    image = torch.zeros(scans, 1, *IMAGE)
    image[:, :, :8] = 0.5
    table = 10 + 5 * torch.rand((scans, 3, *HALVES), generator=random)
    matrix = network.real.atlas_voxel_to_ras.float()
    world = torch.einsum("ij,njxyz->nixyz", matrix[:3, :3], table)
    world = world + matrix[:3, 3].reshape(1, 3, 1, 1, 1)
    padded = np.pad(table.numpy(), [(0, 0)] * 2 + [(0, 1)] * 3, mode="edge")
    blocks = padded.reshape(scans, 3, 5, 2, 6, 2, 5, 2).mean(axis=(3, 5, 7))
    return image, world, torch.from_numpy(blocks) - network.start()


def moved(displacements: Tensor, voxels: float) -> Tensor:
    """Displacements that far off, in a direction of all three axes."""
    return displacements + voxels * torch.tensor([2.0, -1.0, 2.0]).reshape(1, 3, 1, 1, 1) / 3


def cost(network: Told, *corrected: Tensor, first: float = 100.0) -> float:
    """Of these maps after one that is far off."""
    true = scan(network, len(corrected[0]))[2]
    network.maps = [moved(true, first), *corrected]
    return float(position_loss(cast(Any, network), *scan(network, len(true))[:2]))


@pytest.mark.parametrize("voxels", [2.0, 10.0, 50.0])
def test_the_distance_counts_in_voxels_of_the_table(told: Told, voxels: float) -> None:
    true = scan(told)[2]
    assert cost(told, moved(true, voxels)) == pytest.approx(voxels, abs=0.01)


def test_the_map_before_any_correction_costs_nothing(told: Told) -> None:
    true = scan(told)[2]
    near, far = (cost(told, moved(true, 2.0), first=voxels) for voxels in (0.0, 1000.0))
    assert near == far


def test_true_displacements_cost_nearly_nothing_and_pull_nowhere(told: Told) -> None:
    image, positions, true = scan(told)
    predicted = true.clone().requires_grad_()
    told.maps = [true, predicted]
    loss = position_loss(cast(Any, told), image, positions)
    assert loss.item() == pytest.approx(0.1, abs=1e-3)
    (gradient,) = torch.autograd.grad(loss, predicted)
    # the way through the atlas's world rounds
    assert gradient.abs().max() < 1e-5


def test_position_loss_falls_as_displacements_move_to_the_truth(told: Told) -> None:
    true = scan(told)[2]
    costs = [cost(told, moved(true, voxels)) for voxels in (20, 10, 5, 2, 1, 0.5, 0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1] + 5


def test_blocks_without_brain_count_a_fiftieth(told: Told) -> None:
    """The brain fills 2 of 5 layers of blocks, those of the padding left out."""
    true = scan(told)[2]
    inside, outside = true.clone(), true.clone()
    inside[:, :, :2] = moved(true, 21.0)[:, :, :2]
    outside[:, :, 2:] = moved(true, 21.0)[:, :, 2:]
    # along y and z the last of the blocks is half an image's
    brain = 2 * 5.5 * 4.5 / (5 * 6 * 5)
    whole = OUTSIDE_WEIGHT + (1 - OUTSIDE_WEIGHT) * brain
    layers = (0.4 * OUTSIDE_WEIGHT + (1 - OUTSIDE_WEIGHT) * brain, 0.6 * OUTSIDE_WEIGHT)
    for wrong, share in zip((inside, outside), layers, strict=True):
        assert cost(told, wrong) == pytest.approx(0.1 + 20.9 * share / whole, abs=0.01)


def test_the_loss_is_the_sum_of_the_corrections(told: Told) -> None:
    true = scan(told)[2]
    maps = [moved(true, voxels) for voxels in (4.0, 2.0, 1.0)]
    assert cost(told, *maps) == pytest.approx(sum(cost(told, one) for one in maps), rel=1e-5)
    assert cost(told, *maps) == pytest.approx(7.0, abs=0.1)


def test_a_batchs_position_loss_is_the_mean_of_scans_with_as_much_brain(told: Told) -> None:
    true = scan(told, 2)[2]
    wrong = torch.cat([moved(true[:1], 2.0), moved(true[1:], 9.0)])
    even = [cost(told, moved(true, voxels)) for voxels in (2.0, 9.0)]
    assert cost(told, wrong) == pytest.approx(float(np.mean(even)), rel=1e-4)


def test_only_the_correction_gets_a_slope(told: Told) -> None:
    network = told.real
    position_loss(network, *scan(told)[:2]).backward()
    found = {n.split(".")[0] for n, p in network.named_parameters() if p.grad is not None}
    assert found == {"correct"}
    assert network.correct.out.weight.grad is not None
    assert network.correct.out.weight.grad.any()
