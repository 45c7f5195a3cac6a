"""Prepare a scan for the network with report A's nine steps, for training and serving alike.

1 skull stripping (ROBEX), 2 bias correction (N4), 3 Spacing to 1 mm, 4 Orientation RAS, 5
HistogramNormalize, 6 ScaleIntensity to [0, 1], 7 CropForeground, 8 SetOriginToZeroWithANTs, 9
Resize to (91, 122, 123).
"""

from neurobento.preprocessing.mode import PREPROCESSINGS, Preprocessing
from neurobento.preprocessing.pipeline import PreparedScan, preprocess

__all__ = ["PREPROCESSINGS", "PreparedScan", "Preprocessing", "preprocess"]
