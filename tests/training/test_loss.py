"""The loss against a one-hot formula, PyTorch's cross-entropy and MONAI's Dice."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional as F

from training.loss import dice_cross_entropy

VOXELS, CLASSES = 60, 7


def logits_and_labels(seed: int, classes_present: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Random logits, and labels in which each of the first so many classes appears."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes_present, (VOXELS,), generator=random)
    labels[:classes_present] = torch.arange(classes_present)
    return 2 * torch.randn((VOXELS, CLASSES), generator=random), labels


def one_hot_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The same, said plainly: every tensor is (V, C)."""
    truth = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    p = logits.softmax(dim=1)
    dice = (2 * (p * truth).sum(0) + 1) / (p.sum(0) + truth.sum(0) + 1)
    cross_entropy = -(truth * p.log()).sum(1).mean()
    return cross_entropy + 1 - dice[truth.sum(0) > 0].mean()


@pytest.mark.parametrize("present", [1, 3, CLASSES])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_one_hot_formula(seed: int, present: int) -> None:
    logits, labels = logits_and_labels(seed, present)
    torch.testing.assert_close(dice_cross_entropy(logits, labels), one_hot_loss(logits, labels))


@pytest.mark.parametrize("seed", range(3))
def test_with_all_classes_present_it_is_monais_dice_and_torchs_cross_entropy(seed: int) -> None:
    logits, labels = logits_and_labels(seed)
    dice = DiceLoss(softmax=True, to_onehot_y=True, smooth_nr=1.0, smooth_dr=1.0)
    expected = dice(logits.T[None], labels[None, None]) + F.cross_entropy(logits, labels)
    torch.testing.assert_close(dice_cross_entropy(logits, labels), expected)


@pytest.mark.parametrize("present", [2, CLASSES])
def test_its_gradient_is_the_one_hot_formulas(present: int) -> None:
    logits, labels = logits_and_labels(4, present)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(dice_cross_entropy(logits, labels), logits)
    (expected,) = torch.autograd.grad(one_hot_loss(logits, labels), logits)
    torch.testing.assert_close(gradient, expected)


def test_perfect_logits_cost_nearly_nothing() -> None:
    _, labels = logits_and_labels(6)
    logits = 50.0 * F.one_hot(labels, CLASSES)
    assert dice_cross_entropy(logits, labels) == pytest.approx(0, abs=1e-5)


def test_confident_mistakes_cost_more_than_ignorance() -> None:
    _, labels = logits_and_labels(7)
    wrong = 50.0 * F.one_hot((labels + 1) % CLASSES, CLASSES)
    ignorant = torch.zeros(VOXELS, CLASSES)
    assert dice_cross_entropy(wrong, labels) > dice_cross_entropy(ignorant, labels) > 1


def test_the_order_of_voxels_does_not_matter() -> None:
    logits, labels = logits_and_labels(8)
    order = torch.randperm(VOXELS, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        dice_cross_entropy(logits[order], labels[order]), dice_cross_entropy(logits, labels)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_fp32(dtype: torch.dtype) -> None:
    logits, labels = logits_and_labels(9)
    logits = logits.to(dtype)
    loss = dice_cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, dice_cross_entropy(logits.float(), labels))
