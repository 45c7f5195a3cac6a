"""Draw a model's labels beside those by registration, to be looked at.

    python -m training.studies.label_pictures SCANS... --pairs PAIRS --preprocessing full -o PNG

PAIRS holds the scans' labels by registration (`training.parcellation.label`). Each scan is a row:
three planes with the registration's labels, then the same three with the model's.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

from neurobento.backends import open_backend
from neurobento.cohort.scans import find_scan_files
from neurobento.command import run
from neurobento.dice import mean_dice
from neurobento.errors import ConfigError
from neurobento.files import write_atomically
from neurobento.imaging.scan import read_scan, scan_name
from neurobento.parcellation.figures import overlay_png
from neurobento.parcellation.parcellator import Parcellator
from neurobento.pictures import png_bytes
from neurobento.preprocessing import PREPROCESSINGS
from neurobento.registry import DEFAULT_MODEL, find_model
from training.studies.native_scores import registered_labels

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    import matplotlib.image
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(prog="python -m training.studies.label_pictures")
    parser.add_argument("scans", type=Path, nargs="+", help="files or folders")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--preprocessing", choices=PREPROCESSINGS, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--models-folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    parcellator = Parcellator(open_backend(find_model(args.model, args.models_folder)))
    paths = find_scan_files(args.scans)
    figure = Figure(figsize=(16, 3.1 * len(paths)), facecolor="black", layout="constrained")
    panels = figure.subplots(len(paths), 2, squeeze=False)
    for row, path in zip(panels, paths, strict=True):
        scan, name = read_scan(path), scan_name(path)
        registered = registered_labels(args.pairs, scan, name)
        if registered is None:
            raise ConfigError(
                subject=str(args.pairs),
                expected=f"{name}_labels.nii.gz",
                found="no such file",
                remedy="Label the scan with `python -m training.parcellation.label`.",
            )
        labels = parcellator.parcellate(scan, args.preprocessing).labels
        dice = mean_dice(labels, registered)
        titles = f"{name}, registration", f"{name}, {args.model}: Dice {dice:.3f}"
        for axes, title, drawn in zip(row, titles, (registered, labels), strict=True):
            picture = overlay_png(scan.array, drawn, scan.voxel_to_ras)
            axes.imshow(matplotlib.image.imread(io.BytesIO(picture)))
            axes.set_title(title, color="white", fontsize=10)
            axes.set_axis_off()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.output, png_bytes(figure))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.studies.label_pictures"))
