"""A scan for newcomers: the ICBM 152 T1 average that nilearn carries."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_sample"]


def write_sample(path: Path) -> None:
    """Write the ICBM 152 nonlinear symmetric 2009a T1 template, 1 mm, without skull.

    Fonov et al., "Unbiased nonlinear average age-appropriate brain templates
    from birth to adulthood", NeuroImage 2009. nilearn brings it along, so
    nothing is downloaded.

    Parameters
    ----------
    path
        Where to, .nii or .nii.gz.
    """
    import warnings

    with warnings.catch_warnings():
        # nilearn speaks of plotting features that are not used here
        warnings.simplefilter("ignore")
        from nilearn.datasets import load_mni152_template

        template = load_mni152_template(resolution=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    template.to_filename(path)
