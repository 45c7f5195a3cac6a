"""The image that `bentoml containerize` makes; bentofile.yaml says the rest of it.

Here is what bentofile.yaml cannot say: a distribution that BentoML does not know gets no
compilers and no git, which it would install for every one that it does. All that the
service needs comes as wheels.
"""

from __future__ import annotations

from bentoml.images import Image

__all__ = ["BASE", "IMAGE"]

BASE = "docker.io/library/python:3.11-slim-bookworm"

IMAGE = Image(base_image=BASE, distro="as it is", python_version="3.11")
