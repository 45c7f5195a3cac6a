"""The form of an error message at the terminal."""

from __future__ import annotations

import re

FOUR_PARTS = re.compile(r"^neurobento: (.+): expected (.+); found (.+)\. ([A-Z`].+)\.$", re.M)
