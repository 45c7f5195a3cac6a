"""The loss of a batch, with and without gradient checkpointing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
import pytest
import torch
from monai.networks.nets import HighResNet, UNet
from torch import Tensor, nn

from neurobento.errors import ConfigError
from neurobento.networks.atlas_map import AtlasMap
from neurobento.networks.compact import Compact
from neurobento.networks.highresnet import ReportHighResNet
from neurobento.networks.parcellation import ParcellationNetwork
from neurobento.networks.unet import ReportUNet
from training.parcellation.loss import dice, dice_cross_entropy, position_loss
from training.parcellation.objective import Objective

SHAPE, BLOCKS, BRAIN, CLASSES = (18, 20, 17), (9, 10, 9), (20, 24, 22), 4


def compact() -> ParcellationNetwork:
    return Compact((8, 8), head_width=8, classes=CLASSES, shape=SHAPE)


def atlas_map() -> ParcellationNetwork:
    """With a correction that is not fresh, on an atlas with every region."""
    regions = Compact((8, 8, 8), head_width=8, shape=SHAPE)
    network = AtlasMap(regions, (8, 8), brain_shape=BRAIN, shape=SHAPE)
    nn.init.normal_(network.correct.out.weight, std=0.05)
    brain, labels = torch.zeros((2, *(n + 12 for n in BRAIN)))
    brain[6:-6, 6:-6, 6:-6] = torch.rand(BRAIN) + 0.1
    labels[6:-6, 6:-6, 6:-6] = torch.arange(math.prod(BRAIN)).reshape(BRAIN) % 117
    voxel_to_ras = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]).double())
    network.take_atlas(labels.byte(), brain, voxel_to_ras)
    return network


def unet() -> ParcellationNetwork:
    return ReportUNet(UNet(3, 1, CLASSES, channels=(4, 8), strides=(2,), num_res_units=2))


def held_unet() -> ParcellationNetwork:
    """Which samples voxels as long as it does without its last layer's neighbours."""
    network: Any = unet()
    network.hold_mixing()
    return cast(ParcellationNetwork, network)


def highresnet() -> ParcellationNetwork:
    """All three stages, as the second and the third are dilated."""
    layers = [
        {"name": "conv_0", "n_features": 4, "kernel_size": 3},
        {"name": "res_1", "n_features": 4, "kernels": (3, 3), "repeat": 2},
        {"name": "res_2", "n_features": 4, "kernels": (3, 3), "repeat": 1},
        {"name": "res_3", "n_features": 6, "kernels": (3, 3), "repeat": 1},
        {"name": "conv_1", "n_features": 8, "kernel_size": 1},
        {"name": "conv_2", "kernel_size": 1},
    ]
    return ReportHighResNet(HighResNet(3, 1, CLASSES, layer_params=layers))


NETWORKS = {"compact": compact, "atlas_map": atlas_map, "unet": unet, "highresnet": highresnet}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> ParcellationNetwork:
    torch.manual_seed(0)
    return NETWORKS[request.param]()


def batch(scans: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    image = torch.rand((scans, 1, *SHAPE), generator=random)
    labels = torch.randint(CLASSES, (scans, *SHAPE), generator=random).byte()
    positions = torch.from_numpy(4.0 * np.indices(BLOCKS) + 11.0).float()
    return image, labels, positions.expand(scans, -1, -1, -1, -1).contiguous()


def mean_of(losses: Iterable[Tensor]) -> Tensor:
    """Of the scans of a batch."""
    return torch.stack(list(losses)).mean()


@pytest.mark.parametrize("loss", ["dice", "dice_cross_entropy"])
def test_halves_of_a_batch_learn_on_average_what_the_whole_does(loss: str) -> None:
    """Also of a network whose batch norms see the scans: so do several processes."""
    network = highresnet()
    objective = Objective(network, loss)
    parts = [one.split(2) for one in batch(4)]
    halves = torch.stack([objective(*half) for half in zip(*parts, strict=True)]).mean()
    torch.testing.assert_close(objective(*batch(4)), halves)


def slopes(network: ParcellationNetwork) -> dict[str, Tensor]:
    """The gradient of every weight that learns; each has one."""
    found = {name: p.grad for name, p in network.named_parameters()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def test_checkpointing_changes_neither_loss_nor_gradients_nor_state(
    network: ParcellationNetwork,
) -> None:
    """States are the batch norms' statistics: what is computed again is not counted again."""
    again = copy.deepcopy(network)
    loss = network.losses[0]
    kept = Objective(network, loss)(*batch())
    kept.backward()
    computed = Objective(again, loss, checkpointing=True)(*batch())
    computed.backward()
    assert torch.equal(computed, kept)
    gradients = slopes(network)
    assert gradients.keys() == {n for n, p in network.named_parameters() if p.requires_grad}
    assert any(gradient.any() for gradient in gradients.values())
    torch.testing.assert_close(slopes(again), gradients)
    torch.testing.assert_close(dict(again.state_dict()), dict(network.state_dict()))


def test_checkpointing_computes_the_blocks_again(network: ParcellationNetwork) -> None:
    """In the backward pass, and only those that learn."""
    blocks = [m for m in network.modules() if isinstance(m, network.recomputed_blocks)]
    assert blocks
    calls: dict[bool, int] = {True: 0, False: 0}

    def count(learns: bool) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[learns] += 1

        return hook

    for block in blocks:
        inner = next(m for m in block.modules() if isinstance(m, nn.Conv3d))
        inner.register_forward_pre_hook(count(inner.weight.requires_grad))
    objective = Objective(network, network.losses[0], checkpointing=True)
    with torch.no_grad():
        objective(*batch())
    once = dict(calls)
    assert sum(once.values()) >= len(blocks)
    loss = objective(*batch())
    assert calls == {learns: 2 * count for learns, count in once.items()}
    loss.backward()
    assert calls == {True: 3 * once[True], False: 2 * once[False]}


def test_a_copy_made_before_is_not_checkpointed(network: ParcellationNetwork) -> None:
    before = copy.deepcopy(network)
    Objective(network, network.losses[0], checkpointing=True)
    assert not any("forward" in vars(module) for module in before.modules())
    assert any("forward" in vars(module) for module in network.modules())


ORDERS = [(0, 1, 2, 3, 4, 5, 6, 7), (5, 2, 7, 0, 3, 6, 1, 4)]
CLASSIFIERS = pytest.mark.parametrize("build", [compact, unet, highresnet])


@CLASSIFIERS
def test_a_classifiers_report_loss_is_that_of_all_its_logits(build: Callable[[], Any]) -> None:
    network = build()
    image, labels, positions = batch()
    scans = zip(image.split(1), labels.split(1), strict=True)
    expected = mean_of(dice(network(one), truth) for one, truth in scans)
    torch.testing.assert_close(Objective(network, "dice")(image, labels, positions), expected)


@CLASSIFIERS
@pytest.mark.parametrize("order", ORDERS)
def test_a_classifiers_loss_is_that_of_a_sample_in_the_order(
    build: Callable[[], Any], order: tuple[int, ...]
) -> None:
    network = build()
    image, labels, positions = batch()
    objective = Objective(network, "dice_cross_entropy")
    objective.order = order
    scans = zip(image.split(1), labels.split(1), strict=True)
    expected = mean_of(dice_cross_entropy(*network.sampled_logits(*scan, order)) for scan in scans)
    torch.testing.assert_close(objective(image, labels, positions), expected)


@pytest.mark.parametrize("build", [compact, held_unet, highresnet])
def test_the_order_chooses_the_voxels(build: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    objective = Objective(build(), "dice_cross_entropy")
    costs = []
    for objective.order in ORDERS:
        costs.append(objective(*batch()).item())
    assert abs(costs[0] - costs[1]) > 1e-4


@pytest.mark.parametrize("order", ORDERS)
def test_one_step_of_compact_teaches_every_position(order: tuple[int, ...]) -> None:
    """An eighth of the head's rows belongs to each of a block's eight voxels."""
    network: Any = compact()
    objective = Objective(network, "dice_cross_entropy")
    objective.order = order
    objective(*batch()).backward()
    rows = network.refine.weight.grad.reshape(8, -1)
    assert (rows.abs().amax(dim=1) > 0).all()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_map_networks_loss_is_that_of_its_positions() -> None:
    torch.manual_seed(0)
    network: Any = atlas_map()
    image, labels, positions = batch()
    loss = Objective(network, "positions")(image, labels, positions)
    scans = zip(image.split(1), positions.split(1), strict=True)
    torch.testing.assert_close(loss, mean_of(position_loss(network, *scan) for scan in scans))
    loss.backward()
    assert {name.split(".")[0] for name in slopes(network)} == {"correct"}


@pytest.mark.parametrize(
    ("build", "loss"),
    [
        (atlas_map, "dice"),
        (atlas_map, "dice_cross_entropy"),
        (compact, "positions"),
        (unet, "positions"),
        (highresnet, "positions"),
    ],
)
def test_a_loss_that_does_not_fit_the_network_is_refused(
    build: Callable[[], ParcellationNetwork], loss: str
) -> None:
    with pytest.raises(ConfigError, match=f"one of .* for this network; found {loss!r}"):
        Objective(build(), loss)
