"""Step 8: move the world's origin to the first voxel, as report A does."""

from __future__ import annotations

import numpy as np
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import Transform

from neurobento.preprocessing.ants_image import to_ants

__all__ = ["SetOriginToZeroWithANTs"]


class SetOriginToZeroWithANTs(Transform):  # type: ignore[misc]
    """MONAI transform that sets an image's origin to (0, 0, 0) through ANTsPy."""

    def __call__(self, image: MetaTensor) -> MetaTensor:
        """Return the image, channels first, with its affine's translation set to zero."""
        affine = image.affine.numpy().astype(np.float64)
        ants_image = to_ants(image[0].numpy(), affine)
        # Zero is the same point in ANTs' LPS axes and in MONAI's RAS axes.
        ants_image.set_origin((0.0, 0.0, 0.0))
        moved = image.clone()
        moved.affine[:3, 3] = moved.affine.new_tensor(ants_image.origin)
        return moved
