"""The image that `bentoml containerize` makes, as far as bentofile.yaml cannot describe it.

BentoML installs compilers and git for each distribution it knows, so the image names another.
"""

from __future__ import annotations

from bentoml.images import Image

__all__ = ["BASE", "IMAGE"]

BASE = "docker.io/library/python:3.11-slim-bookworm"

IMAGE = Image(base_image=BASE, distro="as it is", python_version="3.11")
