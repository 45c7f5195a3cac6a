"""The losses against a one-hot formula, PyTorch's cross-entropy, MONAI's Dice and distances."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from neurobento.networks.atlas_map import AtlasMap, Learning, Step
from training.loss import (
    DISTANCE_WEIGHT,
    LOGIT_LOSSES,
    OUTSIDE_WEIGHT,
    dice,
    dice_cross_entropy,
    position_loss,
    sampled_dice_cross_entropy,
)

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
    torch.testing.assert_close(dice_cross_entropy(logits, labels), one_hot_loss(logits, labels))


@pytest.mark.parametrize("seed", range(3))
def test_with_all_classes_present_it_is_monais_dice_and_torchs_cross_entropy(seed: int) -> None:
    logits, labels = logits_and_labels(seed, scans=2)
    monais = DiceLoss(softmax=True, to_onehot_y=True, smooth_nr=1.0, smooth_dr=1.0)
    expected = monais(logits, labels[:, None]) + F.cross_entropy(logits, labels.long())
    torch.testing.assert_close(dice_cross_entropy(logits, labels), expected)


@pytest.mark.parametrize("present", [2, CLASSES])
def test_its_gradient_is_the_one_hot_formulas(present: int) -> None:
    logits, labels = logits_and_labels(4, present)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(dice_cross_entropy(logits, labels), logits)
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


@pytest.mark.parametrize("loss", LOGIT_LOSSES.values(), ids=LOGIT_LOSSES)
def test_perfect_logits_cost_nearly_nothing(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    labels = logits_and_labels(6)[1]
    assert loss(50 * one_hot(labels), labels) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("loss", LOGIT_LOSSES.values(), ids=LOGIT_LOSSES)
def test_the_surer_of_the_truth_the_smaller(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits, labels = logits_and_labels(7)
    costs = [float(loss(logits + sure * one_hot(labels), labels)) for sure in range(5)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.7 * costs[0]


def test_confident_mistakes_cost_more_than_ignorance() -> None:
    labels = logits_and_labels(7)[1]
    wrong = 50 * one_hot((labels + 1) % CLASSES)
    ignorant = torch.zeros(1, CLASSES, *SHAPE)
    assert dice_cross_entropy(wrong, labels) > dice_cross_entropy(ignorant, labels) > 1


@pytest.mark.parametrize("loss", LOGIT_LOSSES.values(), ids=LOGIT_LOSSES)
def test_the_order_of_voxels_does_not_matter(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits, labels = logits_and_labels(8)
    mirrored = logits.flip(2, 3), labels.flip(1, 2)
    torch.testing.assert_close(loss(*mirrored), loss(logits, labels))


@pytest.mark.parametrize("loss", LOGIT_LOSSES.values(), ids=LOGIT_LOSSES)
def test_a_batchs_loss_is_the_mean_of_its_scans(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Scans with classes of their own: a small one must not drown in a large one."""
    parts = [logits_and_labels(seed, present) for seed, present in ((1, 2), (2, 5), (3, 7))]
    logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    singles = torch.stack([loss(*part) for part in parts])
    assert singles.std() > 0.01
    torch.testing.assert_close(loss(logits, labels), singles.mean())


@pytest.mark.parametrize("loss", LOGIT_LOSSES.values(), ids=LOGIT_LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_fp32(
    loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    logits, labels = logits_and_labels(9)
    logits = logits.to(dtype)
    cost = loss(logits, labels)
    assert cost.dtype == torch.float32
    torch.testing.assert_close(cost, loss(logits.float(), labels))


def test_a_samples_loss_is_that_of_its_voxels_as_one_scan() -> None:
    logits, labels = logits_and_labels(10)
    rows = logits[0].flatten(1).T
    sample = torch.randperm(VOXELS, generator=torch.Generator().manual_seed(0))
    cost = sampled_dice_cross_entropy(rows[sample], labels.flatten().long()[sample])
    torch.testing.assert_close(cost, dice_cross_entropy(logits, labels))


# --- positions ---


class Told(nn.Module):
    """Stands for an `AtlasMap` whose steps are told to it."""

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.real = AtlasMap((4, 8), (4, 8), brain_shape=BRAIN, shape=image_shape)
        matrix = [[-2.0, 0, 0, 30], [0, 2, 0.5, -40], [0, 0, 1.5, -20], [0, 0, 0, 1]]
        self.real.atlas_voxel_to_ras.copy_(torch.tensor(matrix))
        self.padded_shape, self.start = self.real.padded_shape, self.real.start
        self.to_table = self.real.to_table
        self.steps: list[Step] = []

    def forward(self, _image: Tensor, _learning: Learning) -> list[Step]:
        return self.steps


IMAGE = (13, 17, 14)
"""Padded to 16, 20 and 16, so to blocks of 8, 10 and 8."""

BLOCKS = (7, 9, 7)
CENTRES = torch.linspace(-6, 6, 13)


@pytest.fixture
def told() -> Told:
    return Told(IMAGE)


def scan(network: Told, scans: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image with brain in the first eight slices, labels, true positions; true displacements."""
    random = torch.Generator().manual_seed(3)
    image = torch.zeros(scans, 1, *IMAGE)
    image[:, :, :8] = 0.5
    labels = torch.randint(117, (scans, *IMAGE), generator=random).byte()
    table = 10 + 5 * torch.rand((scans, 3, *BLOCKS), generator=random)
    matrix = network.real.atlas_voxel_to_ras.float()
    world = torch.einsum("ij,njxyz->nixyz", matrix[:3, :3], table)
    world = world + matrix[:3, 3].reshape(1, 3, 1, 1, 1)
    padded = F.pad(table, (0, 1, 0, 1, 0, 1), mode="replicate")
    return image, labels, world, padded - network.start()


def step(
    displacements: Tensor,
    logits: list[Tensor] | None = None,
    before: Tensor | None = None,
    classes: Tensor | None = None,
) -> Step:
    """Without logits its bins are all alike, which costs log 13."""
    n, _, *shape = displacements.shape
    logits = logits or [torch.zeros(n, len(CENTRES), *shape)] * 3
    before = torch.zeros_like(displacements) if before is None else before
    return Step(displacements, before, logits, CENTRES, classes)


def moved(displacements: Tensor, voxels: float) -> Tensor:
    """Displacements that far off, in a direction of all three axes."""
    return displacements + voxels * torch.tensor([2.0, -1.0, 2.0]).reshape(1, 3, 1, 1, 1) / 3


def cost(network: Told, *steps: Step) -> float:
    network.steps = list(steps)
    return float(position_loss(cast(Any, network), *scan(network, len(steps[0].before))[:3]))


IGNORANCE = math.log(len(CENTRES))


@pytest.mark.parametrize("voxels", [2.0, 10.0, 50.0])
def test_the_distance_counts_in_voxels_of_the_table(told: Told, voxels: float) -> None:
    true = scan(told)[3]
    off = cost(told, step(moved(true, voxels))) - IGNORANCE
    assert off == pytest.approx(DISTANCE_WEIGHT * voxels, abs=0.01)


def test_true_displacements_cost_nearly_nothing_and_pull_nowhere(told: Told) -> None:
    image, labels, positions, true = scan(told)
    predicted = true.clone().requires_grad_()
    told.steps = [step(predicted)]
    loss = position_loss(cast(Any, told), image, labels, positions)
    assert loss.item() - IGNORANCE == pytest.approx(DISTANCE_WEIGHT * 0.1, abs=1e-3)
    (gradient,) = torch.autograd.grad(loss, predicted)
    # the way through the atlas's world rounds
    assert gradient.abs().max() < 1e-5


def test_position_loss_falls_as_displacements_move_to_the_truth(told: Told) -> None:
    true = scan(told)[3]
    costs = [cost(told, step(moved(true, voxels))) for voxels in (20, 10, 5, 2, 1, 0.5, 0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1] + 5


def test_blocks_without_brain_count_a_twentieth(told: Told) -> None:
    """The brain fills 4 of 8 layers of blocks, those of the padding left out."""
    true = scan(told)[3]
    inside, outside = true.clone(), true.clone()
    inside[:, :, :4] = moved(true, 21.0)[:, :, :4]
    outside[:, :, 4:] = moved(true, 21.0)[:, :, 4:]
    brain = 4 * 9 * 7 / (8 * 10 * 8)
    half = 4 / 8
    whole = OUTSIDE_WEIGHT + (1 - OUTSIDE_WEIGHT) * brain
    layers = (half * OUTSIDE_WEIGHT + (1 - OUTSIDE_WEIGHT) * brain, half * OUTSIDE_WEIGHT)
    for wrong, share in zip((inside, outside), layers, strict=True):
        expected = DISTANCE_WEIGHT * (0.1 + 20.9 * share / whole)
        assert cost(told, step(wrong)) - IGNORANCE == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    "shares", [{6: 1.0}, {8: 1.0}, {8: 0.5, 9: 0.5}, {6: 0.75, 7: 0.25}], ids=str
)
def test_bins_cost_least_when_they_share_the_move_as_it_lies(
    told: Told, shares: dict[int, float]
) -> None:
    """A move between two bins' centres belongs to both, to the nearer one more."""
    true = scan(told)[3]
    bins = torch.zeros(len(CENTRES))
    for place, share in shares.items():
        bins[place] = share
    move = float((bins * CENTRES).sum())

    def with_bins(weights: Tensor) -> float:
        column = weights.clamp(min=1e-6).log().reshape(1, -1, 1, 1, 1)
        logits = [column.expand(1, -1, *true.shape[2:])] * 3
        return cost(told, step(true, logits, before=true - move))

    entropy = -sum(share * math.log(share) for share in shares.values())
    assert with_bins(bins) == pytest.approx(entropy + DISTANCE_WEIGHT * 0.1, abs=2e-3)
    for other in (bins.roll(1), bins.roll(-1), torch.full_like(bins, 1 / len(bins))):
        assert with_bins(other) > with_bins(bins) + 0.1


@pytest.mark.parametrize("end", [-1, 1])
def test_a_move_beyond_the_outermost_bin_counts_as_that_bin(told: Told, end: int) -> None:
    true = scan(told)[3]
    weights = torch.full((13,), 1e-6)
    weights[-1 if end > 0 else 0] = 1.0
    logits = [weights.log().reshape(1, -1, 1, 1, 1).expand(1, -1, *true.shape[2:])] * 3
    near, far = (cost(told, step(true, logits, true - end * move)) for move in (6.0, 40.0))
    assert far == pytest.approx(near, abs=1e-4)
    assert near < 0.1


def test_a_steps_blocks_have_to_know_their_label(told: Told) -> None:
    """That of their first voxel; blocks beyond the image have none."""
    _, labels, _, true = scan(told)
    first = F.pad(labels[:, ::2, ::2, ::2].long(), (0, 1, 0, 1, 0, 1))
    sure = 50 * F.one_hot(first, 117).movedim(-1, 1).float()
    without = cost(told, step(true))
    assert cost(told, step(true, classes=sure)) == pytest.approx(without, abs=1e-5)
    ignorant = cost(told, step(true, classes=torch.zeros_like(sure)))
    assert ignorant - without == pytest.approx(math.log(117), abs=1e-4)


def test_the_loss_is_the_sum_of_the_steps(told: Told) -> None:
    true = scan(told)[3]
    steps = [step(moved(true, 4.0)), step(moved(true, 1.0), before=moved(true, 4.0))]
    singles = [cost(told, one) for one in steps]
    assert cost(told, *steps) == pytest.approx(sum(singles), rel=1e-5)


def test_a_batchs_position_loss_is_the_mean_of_scans_with_as_much_brain(told: Told) -> None:
    true = scan(told, 2)[3]
    wrong = torch.cat([moved(true[:1], 2.0), moved(true[1:], 9.0)])
    even = [cost(told, step(moved(true, voxels))) for voxels in (2.0, 9.0)]
    assert cost(told, step(wrong)) == pytest.approx(float(np.mean(even)), rel=1e-4)


@pytest.mark.parametrize(
    ("learning", "names"),
    [("both", {"locate", "refine"}), ("first", {"locate"}), ("second", {"refine"})],
)
def test_only_the_steps_that_learn_get_a_slope(
    told: Told, learning: Learning, names: set[str]
) -> None:
    network = told.real
    position_loss(network, *scan(told)[:3], learning).backward()
    found = {n.split(".")[0] for n, p in network.named_parameters() if p.grad is not None}
    assert found == names


def test_both_steps_cost_what_each_costs_alone(told: Told) -> None:
    given = scan(told)[:3]
    with torch.no_grad():
        both, first, second = (
            position_loss(told.real, *given, learning) for learning in get_args(Learning)
        )
    torch.testing.assert_close(both, first + second)
