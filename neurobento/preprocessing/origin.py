"""Step 8: the origin of the world moved to the first voxel, as report A does it."""

from __future__ import annotations

import numpy as np
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import Transform

from neurobento.preprocessing.ants_image import to_ants

__all__ = ["SetOriginToZeroWithANTs"]


class SetOriginToZeroWithANTs(Transform):  # type: ignore[misc]
    """A MONAI transform that gives an image the origin (0, 0, 0) through ANTsPy.

    The voxels stay as they are; only the affine's translation goes. A world
    origin of zero is the same point in ANTs' LPS and in MONAI's RAS.
    """

    def __call__(self, image: MetaTensor) -> MetaTensor:
        """The image with its affine's translation set to zero; channels first."""
        affine = image.affine.numpy().astype(np.float64)
        ants_image = to_ants(image[0].numpy(), affine)
        ants_image.set_origin((0.0, 0.0, 0.0))
        moved = image.clone()
        moved.affine[:3, 3] = moved.affine.new_tensor(ants_image.origin)
        return moved
