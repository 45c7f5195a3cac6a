"""Laws of the networks, on small grids: no network runs at its full size here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import pytest
import torch
from monai.networks.nets import HighResNet, UNet
from torch import Tensor, nn
from torch.nn import functional as F

from neurobento.errors import ConfigError
from neurobento.networks import PRESETS, build
from neurobento.networks.compact import Compact, _interpolate
from neurobento.networks.highresnet import ReportHighResNet
from neurobento.networks.unet import ReportUNet

SHAPE = (13, 18, 19)
CORNERS = tuple(itertools.product((0, 1), repeat=3))


@pytest.fixture(scope="module")
def network() -> Compact:
    torch.manual_seed(0)
    return Compact(widths=(8, 8), head_width=8, classes=5, shape=SHAPE).eval()


def images(count: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand((count, 1, *shape), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_is_a_network_that_gives_labels(preset: str) -> None:
    network = build(preset)
    assert isinstance(network, nn.Module)
    assert callable(network.labels)


@pytest.mark.parametrize("preset", ["", "Compact", "atlas-map", "neurobento.networks.unet"])
def test_an_unknown_preset_is_answered_with_the_known_ones(preset: str) -> None:
    with pytest.raises(ConfigError, match=f"one of {', '.join(PRESETS)}") as caught:
        build(preset)
    assert caught.value.found == repr(preset)


def test_the_default_network_is_made_for_117_classes_and_the_unet_has_the_reports_size() -> None:
    network = build("compact")
    assert isinstance(network, Compact)
    assert network.shape == (91, 122, 123)
    assert network.classify.out_channels == 117
    unet = build("unet").network
    assert isinstance(unet, nn.Module)
    assert sum(p.numel() for p in unet.parameters()) == 5_275_566


@torch.inference_mode()
def test_labels_are_the_argmax_of_a_logit_for_each_class_and_voxel(network: Compact) -> None:
    assert network(images(2)).shape == (2, 5, *SHAPE)
    labels = network.labels(images(2))
    assert (labels.dtype, labels.shape) == (torch.uint8, (2, *SHAPE))
    assert len(labels.unique()) > 1
    assert torch.equal(labels.long(), network(images(2)).argmax(dim=1))


def brain_in_a_corner(count: int) -> Tensor:
    """Images whose brain ends in the middle of a block, some with a hole of one block in it."""
    image = images(count)
    image[..., 7:] = 0
    image[0, 0, 4:6, 4:6, 2:4] = 0
    return image


@torch.inference_mode()
def test_far_from_the_brain_labels_are_background(network: Compact) -> None:
    """Brain up to voxel 6, so in block 3; block 4 beside it may be labelled, block 5 not."""
    image = brain_in_a_corner(2)
    found, best = network.labels(image).long(), network(image).argmax(dim=1)
    assert (best[..., 10:] != 0).any(), "nothing would be cut off"
    assert (found[..., 10:] == 0).all()
    assert torch.equal(found[..., :10], best[..., :10])


@torch.inference_mode()
@pytest.mark.parametrize("shape", [SHAPE, (16, 32, 16), (9, 10, 11)])
def test_the_exported_labels_are_the_labels(shape: tuple[int, int, int]) -> None:
    """With no padding, less than a block of it, and more."""
    torch.manual_seed(3)
    network = Compact(widths=(8, 8), head_width=8, classes=5, shape=shape).eval()
    image = images(2, shape) if shape != SHAPE else brain_in_a_corner(2)
    expected = network.labels(image)
    assert len(expected.unique()) > 2
    assert torch.equal(network.exported_labels()(image), expected)


@torch.inference_mode()
def test_without_a_brain_all_is_background(network: Compact) -> None:
    nothing = torch.zeros(1, 1, *SHAPE)
    for labels in (network.labels, network.exported_labels()):
        assert not labels(nothing).any()


@torch.inference_mode()
@pytest.mark.parametrize("position", range(8))
def test_sampled_logits_are_forwards_at_the_same_voxels(network: Compact, position: int) -> None:
    a, b, c = CORNERS[position]
    labels = torch.randint(0, 5, (2, *SHAPE), generator=torch.Generator().manual_seed(2))
    logits, chosen = network.sampled_logits(images(2), labels.byte(), [position])
    expected = network(images(2))[:, :, a::2, b::2, c::2].permute(0, 2, 3, 4, 1).reshape(-1, 5)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert chosen.dtype == torch.int64
    assert torch.equal(chosen, labels[:, a::2, b::2, c::2].flatten())


@torch.inference_mode()
def test_slabs_answer_as_forward_does_at_their_positions(network: Compact) -> None:
    """Eight slabs, seven of one layer of blocks: every slab has a neighbour that is cut off."""
    positions = [5, 2, 7, 0, 3, 6, 1, 4]
    labels = torch.randint(0, 5, (2, *SHAPE), generator=torch.Generator().manual_seed(2)).byte()
    logits, chosen = network.sampled_logits(images(2), labels, positions)
    forward, corners = network(images(2)), CORNERS
    edges = [round(i * 7 / 8) for i in range(9)]
    expected, truth = [], []
    for slab, position in zip(itertools.pairwise(edges), positions, strict=True):
        a, b, c = corners[position]
        x = slice(2 * slab[0] + a, 2 * slab[1], 2)
        part = forward[:, :, x, b::2, c::2]
        expected.append(part.permute(0, 2, 3, 4, 1).reshape(-1, 5))
        truth.append(labels[:, x, b::2, c::2].flatten())
    torch.testing.assert_close(logits, torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert torch.equal(chosen, torch.cat(truth).long())


@torch.inference_mode()
def test_the_eight_positions_cover_every_voxel_once(network: Compact) -> None:
    index = torch.arange(13 * 18 * 19).reshape(1, *SHAPE)
    seen = [network.sampled_logits(images(1), index, [p])[1] for p in range(8)]
    assert torch.equal(torch.cat(seen).sort().values, index.flatten())


@torch.inference_mode()
def test_a_batch_equals_its_scans_one_by_one(network: Compact) -> None:
    batch = images(3)
    single = torch.cat([network(image[None]) for image in batch])
    torch.testing.assert_close(network(batch), single, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns_from_one_step_of_eight_slabs(network: Compact) -> None:
    network.zero_grad()
    labels = torch.zeros((1, *SHAPE), dtype=torch.uint8)
    positions = [3, 0, 6, 1, 7, 2, 5, 4]
    network.sampled_logits(images(1), labels, positions)[0].square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("shape", "widths", "padded"),
    [
        ((13, 18, 19), (8, 8), (16, 20, 20)),
        ((16, 16, 8), (8, 8), (16, 16, 8)),
        ((91, 122, 123), (8, 8, 8, 8), (96, 128, 128)),
    ],
)
def test_padding_is_the_next_multiple_of_the_strides(
    shape: tuple[int, int, int], widths: tuple[int, ...], padded: tuple[int, int, int]
) -> None:
    assert Compact(widths, head_width=8, classes=2, shape=shape).padded_shape == padded


@pytest.mark.parametrize("sides", CORNERS)
def test_interpolation_is_trilinear_upsampling_at_those_voxels(sides: tuple[int, int, int]) -> None:
    features = torch.randn((2, 3, 4, 5, 6), generator=torch.Generator().manual_seed(3))
    there = features
    for axis, side in enumerate(sides, start=2):
        there = _interpolate(there, axis, side)
    a, b, c = sides
    upsampled = F.interpolate(features, scale_factor=2, mode="trilinear", align_corners=False)
    torch.testing.assert_close(there, upsampled[:, :, a::2, b::2, c::2])


@torch.inference_mode()
def test_block_shares_are_the_mean_of_two_opposite_corners() -> None:
    """On a grid without padding: of a block's first voxel and its last, what `forward` says."""
    shape = (16, 12, 8)
    torch.manual_seed(0)
    network = Compact(widths=(8, 8), head_width=8, classes=5, shape=shape).eval()
    image = images(2, shape)
    shares = network.block_shares(*network.features(image))
    p = network(image).softmax(dim=1)
    expected = (p[..., ::2, ::2, ::2] + p[..., 1::2, 1::2, 1::2]) / 2
    torch.testing.assert_close(shares, expected, rtol=1e-4, atol=1e-5)


# --- report A's ---


class _Seen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.shape = tuple(x.shape[2:])
        return x


class _Twice(nn.Module):
    """Gives its input back twice, the second time negated."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], dim=1)


class _Inner(nn.Module):
    """Taken apart as MONAI's U-Net is."""

    def __init__(self) -> None:
        super().__init__()
        up = nn.Sequential(_Twice(), nn.Identity())
        self.model: Any = nn.Sequential(_Seen(), nn.Identity(), up)


@pytest.mark.parametrize("shape", [(13, 18, 19), (16, 32, 16), (91, 122, 123)])
def test_the_unets_cropping_undoes_its_padding(shape: tuple[int, int, int]) -> None:
    image, inner = images(1, shape), _Inner()
    assert torch.equal(ReportUNet(cast(Any, inner))(image), torch.cat([image, -image], dim=1))
    assert inner.model[0].shape == tuple(-(-n // 16) * 16 for n in shape)


def test_the_unets_labels_are_the_argmax_of_its_logits() -> None:
    image = images(2, (13, 18, 19)) - 0.5
    labels = ReportUNet(cast(Any, _Inner())).labels(image)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels, (image[:, 0] < 0).byte())


@pytest.fixture
def report_unet() -> Any:
    torch.manual_seed(0)
    return ReportUNet(UNet(3, 1, 5, channels=(4, 8), strides=(2,), num_res_units=2)).eval()


@torch.inference_mode()
def test_the_unet_is_monais(report_unet: Any) -> None:
    image = images(2, (16, 32, 16))
    assert torch.equal(report_unet(image), report_unet.network(image))


LAST = "network.model.2.1.conv.unit0.conv.weight"
"""Of the unet's last convolution."""


def neighbours(weight: Tensor) -> Tensor:
    """A convolution's weights, those of the voxel itself left out."""
    found = weight.detach().clone()
    found[:, :, 1, 1, 1] = 0
    return found


@torch.inference_mode()
def test_without_neighbours_in_its_last_convolution_the_unet_is_the_same_function(
    report_unet: Any,
) -> None:
    """As their weights stand at zero then, until they learn."""
    whole = report_unet(images(2))
    report_unet.hold_mixing()
    held = report_unet(images(2))
    report_unet.mixing = True
    torch.testing.assert_close(report_unet(images(2)), held, rtol=1e-4, atol=1e-5)
    assert (whole - held).abs().mean() > 0.01


def test_holding_keeps_what_the_unets_last_convolution_makes_of_a_voxel_itself(
    report_unet: Any,
) -> None:
    """Of all weights only the neighbours' change."""
    before = {name: p.detach().clone() for name, p in report_unet.named_parameters()}
    report_unet.hold_mixing()
    after = dict(report_unet.named_parameters())
    assert neighbours(before[LAST]).any()
    expected = {**before, LAST: before[LAST] - neighbours(before[LAST])}
    assert [name for name in expected if not torch.equal(after[name], expected[name])] == []


@torch.inference_mode()
def test_without_mixing_the_unets_last_convolution_sees_no_neighbours(report_unet: Any) -> None:
    """Whatever their weights are, they are not computed."""
    calls = []
    report_unet.network.model[2][1].register_forward_hook(lambda *_: calls.append(1))
    mixed = report_unet(images(1))
    report_unet.mixing = False
    alone = report_unet(images(1))
    report_unet.hold_mixing()
    assert torch.equal(report_unet(images(1)), alone)
    assert len(calls) == 1
    assert (mixed - alone).abs().mean() > 0.01


def test_without_mixing_all_but_the_neighbours_weights_learn(report_unet: Any) -> None:
    """As soon as they are computed again, they learn as well: zero is no saddle point."""
    report_unet.hold_mixing()
    for mixing in (False, True):
        report_unet.mixing = mixing
        report_unet.zero_grad()
        report_unet(images(1)).square().sum().backward()
        slopes = {name: p.grad for name, p in report_unet.named_parameters()}
        assert {name for name, slope in slopes.items() if slope is None} == set()
        assert slopes[LAST][:, :, 1, 1, 1].any()
        assert bool(neighbours(slopes[LAST]).any()) == mixing
        assert slopes[LAST.replace("weight", "bias")].any()


def test_the_reports_unet_can_leave_its_last_convolutions_neighbours_out() -> None:
    network: Any = build("unet")
    assert network.mixing
    network.hold_mixing()
    weight = network.get_parameter(LAST)
    assert weight.shape == (117, 117, 3, 3, 3)
    assert weight[:, :, 1, 1, 1].all()
    assert not neighbours(weight).any()
    assert not network.mixing


@torch.inference_mode()
def test_the_unet_learns_from_all_voxels_once_it_mixes(report_unet: Any) -> None:
    labels = torch.randint(0, 5, (2, *SHAPE), generator=torch.Generator().manual_seed(2))
    logits, chosen = report_unet.sampled_logits(images(2), labels.byte(), range(8))
    assert torch.equal(logits, report_unet(images(2)).permute(0, 2, 3, 4, 1).reshape(-1, 5))
    assert torch.equal(chosen, labels.flatten())


@torch.inference_mode()
@pytest.mark.parametrize("position", range(8))
def test_without_mixing_the_unets_last_norm_counts_the_sampled_voxels_alone(
    report_unet: Any, position: int
) -> None:
    """Those of the padded image; all before and after it is as in `forward`."""
    a, b, c = CORNERS[position]
    report_unet.mixing = False
    with inputs_of(report_unet.network.model[2][0].adn) as risen:
        report_unet(images(2))
    counted = report_unet.network.model[2][0].adn(risen[0][:, :, a::2, b::2, c::2])
    expected = torch.zeros(2, 5, *(2 * n for n in counted.shape[2:]))
    expected[:, :, a::2, b::2, c::2] = report_unet._mix_logits(counted)
    x, y, z = SHAPE
    assert_sampled_as(report_unet, position, expected[..., :x, :y, :z])


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    given: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].clone()))
    yield given
    hook.remove()


def assert_sampled_as(network: Any, position: int, forward: Tensor) -> None:
    """The sampled logits are those of a forward pass at one voxel of each block."""
    a, b, c = CORNERS[position]
    labels = torch.randint(0, 5, (2, *SHAPE), generator=torch.Generator().manual_seed(2))
    order = [position, *(i for i in range(8) if i != position)]
    logits, chosen = network.sampled_logits(images(2), labels.byte(), order)
    expected = forward[:, :, a::2, b::2, c::2].permute(0, 2, 3, 4, 1)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected.reshape(-1, 5), rtol=1e-4, atol=1e-5)
    assert chosen.dtype == torch.int64
    assert torch.equal(chosen, labels[:, a::2, b::2, c::2].flatten())


@torch.inference_mode()
def test_by_blocks_the_unets_exported_labels_are_its_labels(report_unet: Any) -> None:
    """Images that need padding, and more than one."""
    report_unet.hold_mixing()
    exported = report_unet.exported_labels()
    assert exported != report_unet.labels
    for shape in (SHAPE, (16, 32, 16)):
        expected = report_unet.labels(images(2, shape))
        assert len(expected.unique()) > 2
        assert (exported(images(2, shape)) == expected).float().mean() > 0.9999


def test_a_unet_whose_voxels_see_neighbours_is_exported_as_it_is(report_unet: Any) -> None:
    report_unet.hold_mixing()
    with torch.no_grad():
        report_unet.network.model[2][1].conv.unit0.conv.weight[0, 0, 0, 1, 1] = 1e-3
    assert report_unet.exported_labels() == report_unet.labels


@pytest.fixture
def report_highresnet() -> Any:
    """Three stages, dilated by 1, 2 and 4, whose batch norms have counted something."""
    torch.manual_seed(0)
    layers = [
        {"name": "conv_0", "n_features": 4, "kernel_size": 3},
        {"name": "res_1", "n_features": 4, "kernels": (3, 3), "repeat": 1},
        {"name": "res_2", "n_features": 6, "kernels": (3, 3), "repeat": 2},
        {"name": "res_3", "n_features": 8, "kernels": (3, 3), "repeat": 2},
        {"name": "conv_1", "n_features": 8, "kernel_size": 1},
        {"name": "conv_2", "kernel_size": 1},
    ]
    network = ReportHighResNet(HighResNet(3, 1, 5, layer_params=layers)).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        network(images(2))
    return network.eval()


def convolutions(network: nn.Module) -> list[tuple[Any, Any]]:
    """Dilation and padding of each."""
    found = [m for m in network.modules() if isinstance(m, nn.Conv3d)]
    return [(m.dilation, m.padding) for m in found]


ORDERS = [(0, 1), (1, 0), (0, 0), (7, 7), (2, 5), (6, 3), (4, 2)]


@torch.inference_mode()
@pytest.mark.parametrize("order", ORDERS)
def test_highresnets_sampled_logits_are_forwards_at_those_voxels(
    report_highresnet: Any, order: tuple[int, int]
) -> None:
    """One of every second voxel along each axis, and of those one of every second again."""
    first, second = (CORNERS[position] for position in order)
    a, b, c = (i + 2 * j for i, j in zip(first, second, strict=True))
    labels = torch.randint(0, 5, (2, *SHAPE), generator=torch.Generator().manual_seed(2))
    left = [position for position in range(8) if position not in order]
    logits, chosen = report_highresnet.sampled_logits(images(2), labels.byte(), [*order, *left])
    forward = report_highresnet(images(2))
    assert forward.std() > 0.1
    expected = forward[:, :, a::4, b::4, c::4].permute(0, 2, 3, 4, 1).reshape(-1, 5)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert chosen.dtype == torch.int64
    assert torch.equal(chosen, labels[:, a::4, b::4, c::4].flatten())


def test_highresnets_sampled_logits_have_forwards_slopes(report_highresnet: Any) -> None:
    labels = torch.zeros((1, *SHAPE), dtype=torch.uint8)
    slopes = []
    for logits in (
        report_highresnet.sampled_logits(images(1), labels, [5, 2])[0],
        report_highresnet(images(1))[:, :, 1::4, 2::4, 1::4],
    ):
        report_highresnet.zero_grad()
        logits.square().sum().backward()
        slopes.append([p.grad.clone() for p in report_highresnet.parameters()])
    assert all(slope.any() for slope in slopes[1])
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("use", ["forward", "labels"])
@pytest.mark.parametrize("fails", [False, True])
def test_after_sampling_highresnet_is_the_network_that_it_was(
    report_highresnet: Any, monkeypatch: pytest.MonkeyPatch, use: str, fails: bool
) -> None:
    """From the next use on, also where a block failed while sampling."""
    before = convolutions(report_highresnet)
    assert {dilation for dilation, _ in before} == {(1, 1, 1), (2, 2, 2), (4, 4, 4)}
    expected = getattr(report_highresnet, use)(images(1))

    def forward(_: Tensor) -> Tensor:
        raise MemoryError

    labels = torch.zeros((1, *SHAPE), dtype=torch.uint8)
    with monkeypatch.context() as patch:
        if fails:
            patch.setattr(report_highresnet.network.blocks[5], "forward", forward)
        with pytest.raises(MemoryError) if fails else nullcontext():
            report_highresnet.sampled_logits(images(1), labels, range(8))
    assert torch.equal(getattr(report_highresnet, use)(images(1)), expected)
    assert convolutions(report_highresnet) == before


@torch.inference_mode()
def test_highresnet_stays_undilated_after_sampling_and_samples_the_same_again_after_forward(
    report_highresnet: Any,
) -> None:
    """Until its next use: gradient checkpointing computes activations again in between."""
    before = convolutions(report_highresnet)
    labels = torch.zeros((1, *SHAPE), dtype=torch.uint8)
    first, _ = report_highresnet.sampled_logits(images(1), labels, range(8))
    after = convolutions(report_highresnet)
    assert {dilation for dilation, _ in after} == {(1, 1, 1)}
    paddings = [tuple(min(n, 1) for n in padding) for _, padding in before]
    assert [padding for _, padding in after] == paddings
    report_highresnet(images(1))
    again, _ = report_highresnet.sampled_logits(images(1), labels, range(8))
    assert torch.equal(again, first)


@torch.inference_mode()
def test_highresnets_labels_are_the_argmax_of_its_logits(report_highresnet: Any) -> None:
    labels = report_highresnet.labels(images(2))
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), report_highresnet(images(2)).argmax(dim=1))
