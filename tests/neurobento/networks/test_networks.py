"""Laws of the networks, on small grids: no network runs at its full size here."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurobento.errors import ConfigError
from neurobento.networks import PRESETS, build
from neurobento.networks.compact import Compact, _interpolate
from neurobento.networks.unet import ReportUNet

SHAPE = (13, 18, 19)


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


def test_the_unet_has_the_reports_number_of_parameters() -> None:
    network = build("unet").network
    assert isinstance(network, nn.Module)
    assert sum(p.numel() for p in network.parameters()) == 5_275_566


def test_the_default_network_is_made_for_117_classes_on_the_network_grid() -> None:
    network = build("compact")
    assert isinstance(network, Compact)
    assert network.shape == (91, 122, 123)
    assert network.classify.out_channels == 117


@torch.inference_mode()
def test_forward_gives_a_logit_for_each_class_and_voxel(network: Compact) -> None:
    assert network(images(2)).shape == (2, 5, *SHAPE)


@torch.inference_mode()
def test_labels_are_the_argmax_of_forward(network: Compact) -> None:
    labels = network.labels(images(2))
    assert (labels.dtype, labels.shape) == (torch.uint8, (2, *SHAPE))
    assert len(labels.unique()) > 1
    assert torch.equal(labels.long(), network(images(2)).argmax(dim=1))


@torch.inference_mode()
@pytest.mark.parametrize("position", range(8))
def test_sampled_logits_are_forwards_at_the_same_voxels(network: Compact, position: int) -> None:
    a, b, c = list(itertools.product((0, 1), repeat=3))[position]
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
    forward, corners = network(images(2)), list(itertools.product((0, 1), repeat=3))
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


@pytest.mark.parametrize("sides", list(itertools.product((0, 1), repeat=3)))
def test_interpolation_is_trilinear_upsampling_at_those_voxels(
    sides: tuple[int, int, int],
) -> None:
    features = torch.randn((2, 3, 4, 5, 6), generator=torch.Generator().manual_seed(3))
    there = features
    for axis, side in enumerate(sides, start=2):
        there = _interpolate(there, axis, side)
    a, b, c = sides
    upsampled = F.interpolate(features, scale_factor=2, mode="trilinear", align_corners=False)
    torch.testing.assert_close(there, upsampled[:, :, a::2, b::2, c::2])


class _Inner(nn.Module):
    """Gives its input back twice, the second time negated; remembers the shape it saw."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = tuple(x.shape[2:])
        return torch.cat([x, -x], dim=1)


@pytest.mark.parametrize("shape", [(13, 18, 19), (16, 32, 16), (91, 122, 123)])
def test_the_unets_cropping_undoes_its_padding(shape: tuple[int, int, int]) -> None:
    image, inner = images(1, shape), _Inner()
    assert torch.equal(ReportUNet(inner)(image), torch.cat([image, -image], dim=1))
    assert inner.seen == tuple(-(-n // 16) * 16 for n in shape)


def test_the_unets_labels_are_the_argmax_of_its_logits() -> None:
    image = images(2, (13, 18, 19)) - 0.5
    labels = ReportUNet(_Inner()).labels(image)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels, (image[:, 0] < 0).byte())
