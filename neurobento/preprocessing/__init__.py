"""Report A's nine steps, in its order: a scan in its own space becomes the network's image.

1 skull stripping (ROBEX), 2 bias correction (N4), 3 Spacing to 1 mm,
4 Orientation RAS, 5 HistogramNormalize, 6 ScaleIntensity to [0, 1],
7 CropForeground, 8 SetOriginToZeroWithANTs, 9 Resize to (91, 122, 123).

The same code prepares training data and serves requests.
"""

from neurobento.preprocessing.mode import PREPROCESSINGS, Preprocessing
from neurobento.preprocessing.pipeline import Preprocessed, preprocess

__all__ = ["PREPROCESSINGS", "Preprocessed", "Preprocessing", "preprocess"]
