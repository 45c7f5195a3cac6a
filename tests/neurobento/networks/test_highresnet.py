"""Laws of report A's HighResNet, on small grids."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from neurobento.networks import build


def images(count: int, shape: tuple[int, int, int]) -> Tensor:
    return torch.rand((count, 1, *shape), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build("highresnet").eval()


def test_it_has_the_reports_number_of_parameters(network: nn.Module) -> None:
    assert sum(p.numel() for p in network.parameters()) == 818_378


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(7, 10, 9), (8, 8, 8), (3, 5, 4)])
def test_forward_gives_117_logits_for_each_voxel_of_any_shape(
    network: nn.Module, shape: tuple[int, int, int]
) -> None:
    assert network(images(2, shape)).shape == (2, 117, *shape)


@torch.inference_mode()
def test_labels_are_the_argmax_of_forward_and_a_batch_equals_its_scans_one_by_one(
    network: nn.Module,
) -> None:
    labels = network.labels(images(2, (7, 10, 9)))
    assert (labels.dtype, labels.shape) == (torch.uint8, (2, 7, 10, 9))
    assert len(labels.unique()) > 1
    assert torch.equal(labels.long(), network(images(2, (7, 10, 9))).argmax(dim=1))
    batch = images(3, (7, 10, 9))
    single = torch.cat([network(image[None]) for image in batch])
    torch.testing.assert_close(network(batch), single, rtol=1e-4, atol=1e-5)
