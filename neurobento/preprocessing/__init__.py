"""Find the brain in a scan and make the network's image, for training and serving alike.

`pipeline.py` is the whole path; `report_a.py` has report A's nine steps, for models that need them.
"""

from neurobento.preprocessing.mode import PREPROCESSINGS, Preprocessing
from neurobento.preprocessing.pipeline import PreparedScan, preprocess

__all__ = ["PREPROCESSINGS", "PreparedScan", "Preprocessing", "preprocess"]
