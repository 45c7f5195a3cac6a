"""The network that finds the brain, with few channels on a small grid."""

from __future__ import annotations

import pytest
import torch

from neurobento.imaging.geometry import FINDER_SHAPE
from neurobento.networks import build, network_class, task_function, task_of
from neurobento.networks.brain_finder import BrainFinder
from neurobento.preprocessing.tissues import TISSUES
from neurobento.spec import MODEL_TASKS

SHAPE = (16, 24, 32)


@pytest.fixture
def network() -> BrainFinder:
    torch.manual_seed(0)
    return BrainFinder((6, 8, 8), shape=SHAPE).eval()


def images(count: int, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return torch.rand((count, 1, *shape), generator=torch.Generator().manual_seed(1))


def test_logits_have_the_images_grid(network: BrainFinder) -> None:
    with torch.inference_mode():
        brain, tissues = network(images(2))
    assert brain.shape == (2, 1, *SHAPE)
    assert tissues.shape == (2, len(TISSUES), *SHAPE)


def test_find_gives_probability_and_tissue(network: BrainFinder) -> None:
    with torch.inference_mode():
        brain, tissues = network.find(images(2))
        logits, tissue_logits = network(images(2))
    assert (brain.shape, brain.dtype) == ((2, *SHAPE), torch.float32)
    assert (tissues.shape, tissues.dtype) == ((2, *SHAPE), torch.uint8)
    torch.testing.assert_close(brain, logits[:, 0].sigmoid())
    assert 0 < brain.min() < brain.max() < 1
    assert torch.equal(tissues.long(), tissue_logits.argmax(dim=1))
    assert len(tissues.unique()) > 1


def test_images_are_searched_together_as_each_alone(network: BrainFinder) -> None:
    with torch.inference_mode():
        brains, tissues = network.find(images(3))
        for i, image in enumerate(images(3)):
            brain, tissue = network.find(image[None])
            torch.testing.assert_close(brain[0], brains[i], atol=1e-5, rtol=1e-4)
            assert (tissue[0] == tissues[i]).float().mean() > 0.999


def test_each_voxel_has_its_own_output(network: BrainFinder) -> None:
    """A change of one voxel changes its own logits most, and not those of its block alike."""
    image = images(1)
    changed = image.clone()
    changed[0, 0, 8, 12, 16] += 5
    with torch.inference_mode():
        difference = (network(changed)[0] - network(image)[0]).abs()[0, 0]
    block = difference[8:10, 12:14, 16:18]
    assert block.unique().numel() == 8
    assert difference.max() > 0


def test_sides_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ValueError, match="sides that 8 divides"):
        BrainFinder((6, 8, 8), shape=(16, 20, 32))


def test_the_preset_fits_the_task() -> None:
    network = build("brain_finder")
    assert network_class("brain_finder") is BrainFinder
    assert network.shape == FINDER_SHAPE
    assert task_of(network) == "brain"
    assert task_function(network) == network.find
    assert list(MODEL_TASKS["brain"].outputs) == ["brain", "tissues"]
    assert sum(p.numel() for p in network.parameters()) < 5e6


def test_the_border_is_corrected_once_it_has_learnt(network: BrainFinder) -> None:
    image = images(1)
    with torch.inference_mode():
        before, tissues_before = network(image)
        torch.nn.init.normal_(network.border[-1].weight)
        after, tissues_after = network(image)
    assert not torch.equal(before, after)
    assert torch.equal(tissues_before, tissues_after)
