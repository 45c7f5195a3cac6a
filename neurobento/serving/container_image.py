"""The image that `bentoml containerize` makes, as far as bentofile.yaml cannot describe it.

BentoML installs compilers and git for every distribution that it knows. The service needs only
wheels, so the image names a distribution that BentoML does not know.
"""

from __future__ import annotations

from bentoml.images import Image

__all__ = ["BASE", "IMAGE"]

BASE = "docker.io/library/python:3.11-slim-bookworm"

IMAGE = Image(base_image=BASE, distro="as it is", python_version="3.11")
