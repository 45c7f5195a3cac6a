"""Plausible random changes of an image, its labels and its atlas positions.

One resampling does rotation, scale, shift and two smooth displacements together, much faster than
MONAI's Rand3DElastic (docs/decisions/0003-augmentation.md). The intensity changes follow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.transforms.transform import RandomizableTransform
from torch import Tensor
from torch.nn import functional as F

from neurobento.preprocessing.network_image import equalised

__all__ = ["Augmentation", "RandomBlur", "RandomCut", "RandomIntensity", "RandomWarp", "augment"]


@dataclass(frozen=True)
class Augmentation:
    """Strength of each random change; zero turns one off."""

    # standard deviations: of the angle about each axis, of the log scale along each axis,
    # and of the shift as a share of half the grid
    rotation_rad: float = 0.12
    scale: float = 0.06
    shift: float = 0.03
    # of the displacement at the nodes of the coarse and the fine grid, as a share of half the grid
    displacement: tuple[float, float] = (0.02, 0.01)
    # of the log exponent on intensities, and of the log bias field at its 4 x 4 x 4 nodes
    gamma: float = 0.2
    bias: float = 0.15
    # largest standard deviation of Gaussian noise
    noise: float = 0.04
    # share of scans whose brain is cut anew: tighter, looser or shorter
    cut: float = 0.0
    # share of scans that are blurred, as by large voxels or thick slices
    blur: float = 0.0

    @property
    def off(self) -> bool:
        """True if every strength is zero."""
        return self == self.scaled(0.0)

    def scaled(self, share: float) -> Augmentation:
        """Return every strength times a share, 0..1."""
        coarse, fine = self.displacement
        return Augmentation(
            rotation_rad=self.rotation_rad * share,
            scale=self.scale * share,
            shift=self.shift * share,
            displacement=(coarse * share, fine * share),
            gamma=self.gamma * share,
            bias=self.bias * share,
            noise=self.noise * share,
            cut=self.cut * share,
            blur=self.blur * share,
        )


class RandomWarp(RandomizableTransform):  # type: ignore[misc]
    """A smooth random map of the grid, the same for image, labels and positions."""

    COARSE, FINE = (6, 8, 8), (12, 16, 16)

    def __init__(self, strength: Augmentation) -> None:
        super().__init__(prob=1.0)
        self.strength = strength

    def __call__(
        self, image: Tensor, labels: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Warp image (1, X, Y, Z), labels (X, Y, Z) uint8 and positions (3, X/2, Y/2, Z/2)."""
        grid = self._grid(image.shape[1:], image.device)
        moved = F.grid_sample(image[None], grid, mode="bilinear", align_corners=False)[0]
        moved_labels = F.grid_sample(
            labels[None, None].to(image.dtype), grid, mode="nearest", align_corners=False
        )
        moved_positions = F.grid_sample(
            positions[None],
            _grid_of_blocks(grid, positions.shape[1:]),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        return moved, moved_labels[0, 0].to(labels.dtype), moved_positions[0]

    def _grid(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Return sampling positions (1, X, Y, Z, 3), -1..1, last axis first as in `grid_sample`."""
        theta = torch.zeros(1, 3, 4)
        theta[0, :, :3] = self._linear()
        theta[0, :, 3] = self._normal((3,)) * self.strength.shift
        grid = F.affine_grid(theta.to(device), [1, 1, *shape], align_corners=False)
        for nodes, amount in zip((self.COARSE, self.FINE), self.strength.displacement, strict=True):
            offsets = (self._normal((1, 3, *nodes)) * amount).to(device)
            smooth = F.interpolate(offsets, size=tuple(shape), mode="trilinear", align_corners=True)
            grid = grid + smooth.permute(0, 2, 3, 4, 1)
        return grid

    def _linear(self) -> Tensor:
        a, b, c = (self._normal((3,)) * self.strength.rotation_rad).tolist()
        generator = torch.tensor([[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]])
        scale = torch.exp(self._normal((3,)) * self.strength.scale)
        linear: Tensor = torch.linalg.matrix_exp(generator) * scale
        return linear

    def _normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(self.R.standard_normal(shape)).float()


class RandomIntensity(RandomizableTransform):  # type: ignore[misc]
    """Random gamma, bias field and noise inside the brain; the background stays zero."""

    def __init__(self, strength: Augmentation) -> None:
        super().__init__(prob=1.0)
        self.strength = strength

    def __call__(self, image: Tensor) -> Tensor:
        """Return the changed image (1, X, Y, Z), in [0, 1]."""
        gamma = float(torch.exp(torch.tensor(self.R.standard_normal() * self.strength.gamma)))
        nodes = torch.from_numpy(self.R.standard_normal((1, 1, 4, 4, 4))).float()
        field = F.interpolate(
            (nodes * self.strength.bias).to(image.device),
            size=tuple(image.shape[1:]),
            mode="trilinear",
            align_corners=True,
        )[0]
        noise = torch.randn(
            image.shape, generator=self._generator(image.device), device=image.device
        )
        level = float(self.R.uniform(0, self.strength.noise))
        changed = image.clamp(0, 1) ** gamma * torch.exp(field) + level * noise
        return changed.clamp(0, 1) * (image > 0)

    def _generator(self, device: torch.device) -> torch.Generator:
        return torch.Generator(device).manual_seed(int(self.R.randint(2**31)))


class RandomCut(RandomizableTransform):  # type: ignore[misc]
    """Cut a brain out anew: as another tool might have, or as a field of view ends."""

    REACH = 5
    """Voxels over which the border is softened; it moves by half of them at most."""

    def __init__(self, strength: Augmentation) -> None:
        super().__init__(prob=strength.cut)

    def __call__(self, image: Tensor) -> Tensor:
        """Return the image (1, X, Y, Z) with less or more around the brain."""
        self.randomize(None)
        if not self._do_transform:
            return image
        brain = (image > 0).to(image.dtype)
        soft = F.avg_pool3d(brain[None], self.REACH, 1, self.REACH // 2)[0]
        # tight where the threshold is above a half, loose where it is below
        middle = self.R.uniform(0.1, 0.9)
        threshold = self._smooth(image, 5, middle, 0.15).clamp(0.03, 0.97)
        inside = soft > threshold
        if self.R.uniform() < 0.25:
            lost = int(self.R.uniform(0, 0.1) * image.shape[-1])
            inside[..., : self._lowest(brain) + lost] = False
        # what a loose mask lets in has any intensity
        fringe = self._smooth(image, 12, self.R.uniform(0.05, 0.6), 0.2).clamp(0.01, 1)
        return torch.where(brain > 0, image, fringe) * inside

    def _smooth(self, image: Tensor, nodes: int, mean: float, deviation: float) -> Tensor:
        values = mean + deviation * self.R.standard_normal((1, 1, nodes, nodes, nodes))
        smooth: Tensor = F.interpolate(
            torch.from_numpy(values).to(image),
            size=tuple(image.shape[1:]),
            mode="trilinear",
            align_corners=True,
        )[0]
        return smooth

    def _lowest(self, brain: Tensor) -> int:
        heights = torch.nonzero(brain.amax(dim=(0, 1, 2)))
        return int(heights[0]) if len(heights) else 0


class RandomBlur(RandomizableTransform):  # type: ignore[misc]
    """Blur a brain and its rim, as large voxels or slices that are thick along one axis do."""

    REACH = 4

    def __init__(self, strength: Augmentation) -> None:
        super().__init__(prob=strength.blur)

    def __call__(self, image: Tensor) -> Tensor:
        """Return the blurred image (1, X, Y, Z), with zero where little of the brain is left."""
        self.randomize(None)
        if not self._do_transform:
            return image
        sigmas = [self.R.uniform(0.2, 1.2)] * 3
        if self.R.uniform() < 0.3:
            sigmas[self.R.randint(3)] = self.R.uniform(0.9, 2.0)
        # image and brain side by side, as a batch
        blurred = torch.stack([image, (image > 0).to(image)])
        for axis, sigma in enumerate(sigmas):
            places = torch.arange(-self.REACH, self.REACH + 1).to(image)
            kernel = torch.exp(-0.5 * (places / sigma) ** 2)
            shape, padding = [1] * 5, [0] * 3
            shape[axis + 2], padding[axis] = len(places), self.REACH
            blurred = F.conv3d(blurred, (kernel / kernel.sum()).reshape(shape), padding=padding)
        # a stripped scan that was resampled has a dim rim, which a tool may have cut off again
        seen: Tensor = blurred[0] * (blurred[1] > self.R.uniform(0.05, 0.6))
        return seen


def _grid_of_blocks(grid: Tensor, blocks: torch.Size) -> Tensor:
    """Return sampling positions (1, *blocks, 3) of blocks' centres; the last may be outside."""
    sides = grid.shape[1:4]
    for axis, (side, count) in enumerate(zip(sides, blocks, strict=True), start=1):
        if side < 2 * count:
            last, before = grid.narrow(axis, side - 1, 1), grid.narrow(axis, side - 2, 1)
            grid = torch.cat([grid, 2 * last - before], dim=axis)
    centres = F.avg_pool3d(grid.permute(0, 4, 1, 2, 3), 2).permute(0, 2, 3, 4, 1)
    shares = [side / (2 * count) for side, count in zip(sides, blocks, strict=True)]
    return (centres + 1) * torch.tensor(shares[::-1], device=grid.device) - 1


def augment(
    strength: Augmentation, seed: int, image: Tensor, labels: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Change image, labels and positions at random, as a function of the seed alone.

    They are (1, X, Y, Z) float32 in [0, 1], (X, Y, Z) uint8 and (3, X/2, Y/2, Z/2) float32.
    """
    if strength.off:
        return image, labels, positions
    moved = RandomWarp(strength).set_random_state(seed)(image, labels, positions)
    changed = RandomCut(strength).set_random_state(seed + 2)(moved[0])
    changed = RandomBlur(strength).set_random_state(seed + 3)(changed)
    if changed is not moved[0]:
        # as the scan's image would be made with such a mask or such voxels
        values = changed[0].cpu().numpy()
        changed = torch.from_numpy(equalised(values, values > 0))[None].to(changed.device)
    return RandomIntensity(strength).set_random_state(seed + 1)(changed), *moved[1:]
