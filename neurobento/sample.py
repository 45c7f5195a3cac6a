"""A scan to try things on: the ICBM 152 T1 average that nilearn carries."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

from neurobento.errors import ConfigError
from neurobento.files import write_atomically

__all__ = ["write_sample"]


def write_sample(path: Path) -> None:
    """Write the ICBM 152 nonlinear symmetric 2009a T1 template, 1 mm, without skull.

    Fonov et al., NeuroImage 2009. It is a file of nilearn's wheel, so nothing is downloaded.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ConfigError(
            subject=str(path),
            expected="a name that ends in .nii or .nii.gz",
            found=path.suffix or "no suffix",
            remedy="Choose another name.",
        )
    with warnings.catch_warnings():
        # nilearn warns about plotting features that are not used here
        warnings.simplefilter("ignore")
        try:
            from nilearn.datasets import load_mni152_template
        except ImportError:
            raise ConfigError(
                subject=str(path),
                expected="the package nilearn, whose template is the sample",
                found="no such package",
                remedy="Install it: `pip install nilearn`.",
            ) from None

        template = load_mni152_template(resolution=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = template.to_bytes()
    write_atomically(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
