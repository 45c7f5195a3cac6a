"""Make image and label pairs from T1 scans: preprocessing, then AAL by registration.

    python -m training.parcellation.label SCANS... -o PAIRS --preprocessing stripped

Each scan NAME becomes five files in the folder given by -o:

    NAME_image.nii.gz       what the network sees, float32 in [0, 1], 91 x 122 x 123
    NAME_registered.nii.gz  AAL as registered, uint8, same grid
    NAME_labels.nii.gz      the same after the clean-up: what networks learn
    NAME_positions.nii.gz   position of each 2 x 2 x 2 block in the atlas, mm, 46 x 61 x 62 x 3
    NAME.json               options, hashes and seconds; it is written last

and `manifest.tsv` holds a line for each scan: seconds of every step, or the error. Finished scans
are skipped; a failing scan does not stop the others. The work runs on Dask: processes on this
machine, or a cluster (`--scheduler tcp://HOST:8786`) with this package and the same paths.

With `--teacher MODEL` labels and positions are those of a trained map network, in seconds in place
of minutes; there is no NAME_registered then. With `--coarser` too, each scan makes two more pairs,
in larger voxels (NAME_iso) and in thick slices (NAME_thick). Their positions are those of the scan
itself, so that networks learn to answer alike. With `--donors` a scan without skull also makes the
pair NAME_head, whose image is what the preprocessing `full` makes of its brain in the head of a
donor. `--version` says how the image is made: 1 is report
A's nine steps, 2 is what newer models learn from (`neurobento.spec.SCAN_PREPROCESSING`).
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from neurobento.cohort.cluster import map_on_cluster, open_cluster, require_dask, scratch_folder
from neurobento.cohort.resume import matching_record
from neurobento.cohort.scans import find_scan_files
from neurobento.command import run
from neurobento.default_models import BRAIN_MODEL
from neurobento.errors import ConfigError, NeuroBentoError
from neurobento.files import file_sha256, write_atomically
from neurobento.imaging.native_space import space_of
from neurobento.imaging.scan import Scan, read_scan, scan_name
from neurobento.labels import CLASS_COUNT
from neurobento.preprocessing import PREPROCESSINGS, Preprocessing, preprocess
from neurobento.preprocessing.pipeline import PreparedScan
from neurobento.preprocessing.threads import limit_threads
from neurobento.registry import find_model, open_model
from neurobento.spec import REPORT_A_VERSION, SCAN_PREPROCESSING
from training.parcellation.cleanup import CLEANUPS, Cleanup, clean_up
from training.parcellation.coarser import KINDS, coarser
from training.parcellation.dataset import POSITION_SHAPE
from training.parcellation.map_teacher import MapTeacher, PositionField, open_teacher
from training.parcellation.registration import find_atlas, register_atlas
from training.parcellation.transplant import Donor, read_donors, transplant

__all__ = ["Options", "label_all", "label_one", "main", "scan_paths"]

LABELLING_FORMAT = 2
"""Version of `NAME.json`."""

BLOCK_TO_VOXEL = np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
"""Affine from blocks of 2 x 2 x 2 voxels to voxels."""


HELD_BY_DONORS = (0.8, 0.95)
"""Share of a brain that its donor's holds. Little leaves little fluid around it, much leaves more
than heads of healthy people have."""


@dataclass(frozen=True)
class Options:
    """Options that determine a pair, besides its scan."""

    preprocessing: Preprocessing
    cleanup: Cleanup = "gentle"
    # of the registration, and of coarser grids
    seed: int = 0
    # folder of the atlas, or None for Debian's
    atlas: str | None = None
    # folder of a map network's model that labels the scan in place of the registration
    teacher: str | None = None
    # of the image; a model states the version that it was trained with
    version: int = REPORT_A_VERSION
    # with a teacher, also make pairs of the scan on coarser grids
    coarser: bool = False
    # heads with skull: with a teacher, also make a pair of the scan's brain in one of them
    donors: tuple[str, ...] = ()


def scan_paths(inputs: Sequence[Path]) -> list[Path]:
    """Find the scans among files and in folders, each once; ConfigError if two have one name."""
    scans = find_scan_files(inputs)
    names = [scan_name(path) for path in scans]
    if len(set(names)) < len(names):
        raise ConfigError(
            subject=", ".join(str(path) for path in inputs),
            expected="scans, each with a name of its own",
            found="two scans with one name",
            remedy="Label them in runs of their own, or rename one.",
        )
    return scans


def label_one(scan: Path, folder: Path, options: Options) -> dict[str, Any]:
    """Label a scan; return its record, which may hold an error, or a matching earlier one."""
    record_path = folder / f"{scan_name(scan)}.json"
    try:
        made_from = {
            "format": LABELLING_FORMAT,
            "options": _recorded_options(options),
            "scan_sha256": file_sha256(scan),
            "preprocessing_version": options.version,
            **_finder_facts(options),
        }
        earlier = matching_record(record_path, made_from)
        if earlier is not None:
            return {**earlier, "status": "kept"}
        record = {**made_from, **_make_pair(scan, folder, options)}
        write_atomically(record_path, json.dumps(record, indent=1).encode())
        return record
    # one scan must not stop a cohort, whatever a library raises over it
    except Exception as error:
        text = error.message if isinstance(error, NeuroBentoError) else repr(error)
        return _failure(scan, text)


def _finder_facts(options: Options) -> dict[str, str]:
    """Return the hash of the network that finds the brain, if one does."""
    if options.version == REPORT_A_VERSION:
        return {}
    return {"brain_model_sha256": find_model(BRAIN_MODEL).spec.onnx_sha256}


def _recorded_options(options: Options) -> dict[str, Any]:
    """Return options as records have them; "level" is their name for preprocessing."""
    values = asdict(options)
    teacher = values.pop("teacher")
    del values["version"]
    values["donors"] = [file_sha256(Path(donor)) for donor in options.donors]
    for later in ("coarser", "donors"):
        if not values[later]:
            # as the records of earlier versions
            del values[later]
    values = {"level": values.pop("preprocessing"), **values}
    return values | ({"teacher": open_model(Path(teacher)).spec.onnx_sha256} if teacher else {})


def _make_pair(scan_path: Path, folder: Path, options: Options) -> dict[str, Any]:
    # a process does one scan at a time; more threads would only compete
    limit_threads(1)
    import torch

    torch.set_num_threads(1)
    name = scan_name(scan_path)
    scan = read_scan(scan_path)
    prepared = preprocess(scan, options.preprocessing, version=options.version)
    seconds = dict(prepared.seconds)
    affine = prepared.grid.network_voxel_to_ras
    images = {"image": nib.Nifti1Image(prepared.image, affine)}
    if options.teacher:
        with _time_step(seconds, "teacher"):
            teacher = open_teacher(options.teacher)
            field = teacher.read(scan, options.preprocessing)
            labels, images["positions"] = _taught(teacher, field, prepared)
        if options.coarser:
            with _time_step(seconds, "coarser"):
                for kind in KINDS:
                    images |= _coarser_pair(scan, kind, name, teacher, field, options)
        if options.donors:
            with _time_step(seconds, "head"):
                images |= _head_pair(scan, name, teacher, field, options)
    else:
        with _time_step(seconds, "registration"):
            atlas = find_atlas(Path(options.atlas) if options.atlas else None)
            registered = register_atlas(prepared.image, affine, atlas, seed=options.seed)
        with _time_step(seconds, "cleanup"):
            labels = clean_up(registered.labels, options.cleanup)
        images["registered"] = nib.Nifti1Image(registered.labels, affine)
        images["positions"] = _positions_image(registered.positions, affine)
    images["labels"] = nib.Nifti1Image(labels, affine)
    outputs = {}
    for kind, image in images.items():
        path = folder / f"{name}_{kind}.nii.gz"
        write_atomically(path, gzip.compress(image.to_bytes(), 6, mtime=0))
        outputs[path.name] = file_sha256(path)
    return {
        "name": name,
        "status": "done",
        "outputs": outputs,
        "regions": int(np.count_nonzero(np.bincount(labels.ravel(), minlength=CLASS_COUNT)[1:])),
        "seconds": seconds,
    }


def _taught(
    teacher: MapTeacher, field: PositionField, prepared: PreparedScan
) -> tuple[NDArray[np.uint8], nib.Nifti1Image]:
    """Return labels and positions on the network grid, given the teacher's map of the scan."""
    affine = prepared.grid.network_voxel_to_ras
    labels = teacher.labels(field.on_grid(affine, prepared.image.shape))
    blocks = field.on_grid(affine @ BLOCK_TO_VOXEL, POSITION_SHAPE[:3])
    return labels, _positions_image(np.moveaxis(blocks, 0, -1), affine)


def _coarser_pair(
    scan: Scan, kind: str, name: str, teacher: MapTeacher, field: PositionField, options: Options
) -> dict[str, nib.Nifti1Image]:
    """Return a pair's images, by the ends of their files' names, of the scan on a coarser grid."""
    random = np.random.default_rng([options.seed, KINDS.index(kind), zlib.crc32(name.encode())])
    prepared = preprocess(
        coarser(scan, kind, random), options.preprocessing, version=options.version
    )
    return _another_pair(kind, prepared, teacher, field)


def _head_pair(
    scan: Scan, name: str, teacher: MapTeacher, field: PositionField, options: Options
) -> dict[str, nib.Nifti1Image]:
    """Return a pair's images, by the ends of their files' names, of the brain in a donor's head."""
    random = np.random.default_rng([options.seed, len(KINDS), zlib.crc32(name.encode())])
    donors = _donors(options.donors)
    donor = donors[int(random.integers(len(donors)))]
    array, affine = transplant(scan, donor, random, held=random.uniform(*HELD_BY_DONORS))
    head = Scan(array, space_of(array.shape, affine))
    prepared = preprocess(head, "full", version=options.version)
    return _another_pair("head", prepared, teacher, field)


@functools.cache
def _donors(paths: tuple[str, ...]) -> list[Donor]:
    return read_donors([Path(path) for path in paths])


def _another_pair(
    kind: str, prepared: PreparedScan, teacher: MapTeacher, field: PositionField
) -> dict[str, nib.Nifti1Image]:
    affine = prepared.grid.network_voxel_to_ras
    labels, positions = _taught(teacher, field, prepared)
    return {
        f"{kind}_image": nib.Nifti1Image(prepared.image, affine),
        f"{kind}_labels": nib.Nifti1Image(labels, affine),
        f"{kind}_positions": positions,
    }


def _positions_image(
    positions: NDArray[np.floating[Any]], voxel_to_ras: NDArray[np.float64]
) -> nib.Nifti1Image:
    """Store positions in hundredths of a millimetre, on the grid of the 2 x 2 x 2 blocks."""
    hundredths = np.rint(positions * 100).astype(np.int16)
    image = nib.Nifti1Image(hundredths, voxel_to_ras @ BLOCK_TO_VOXEL)
    image.header.set_slope_inter(0.01, 0.0)
    return image


@contextmanager
def _time_step(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


def label_all(
    scans: Sequence[Path],
    folder: Path,
    options: Options,
    *,
    workers: int,
    scheduler: str | None = None,
) -> list[dict[str, Any]]:
    """Label all scans and write `manifest.tsv`; return the scans' records in order."""
    require_dask()
    from tqdm import tqdm

    records: dict[int, dict[str, Any]] = {}
    with scratch_folder(folder) as marks:
        work = functools.partial(label_one, folder=folder.resolve(), options=options)
        try:
            with (
                open_cluster(workers, scheduler) as client,
                tqdm(total=len(scans), unit="scan") as bar,
            ):
                for done in map_on_cluster(client, work, [scan.resolve() for scan in scans], marks):
                    record = _record(scans[done.index], done.value)
                    records[done.index] = record
                    bar.set_postfix_str(f"{record['name']} {record['status']}")
                    bar.update()
        finally:
            made = [records[index] for index in sorted(records)]
            write_atomically(folder / "manifest.tsv", _manifest(made).encode())
    return made


def _record(scan: Path, result: dict[str, Any] | NeuroBentoError) -> dict[str, Any]:
    """Return a scan's record; the death of its worker is a failure of that scan alone."""
    if isinstance(result, NeuroBentoError):
        return _failure(scan, result.message)
    return result


def _failure(scan: Path, text: str) -> dict[str, Any]:
    return {"name": scan_name(scan), "status": "failed", "error": text, "seconds": {}}


def _manifest(records: Sequence[dict[str, Any]]) -> str:
    steps = list(dict.fromkeys(step for record in records for step in record["seconds"]))
    lines = ["\t".join(["name", "status", "regions", *(f"{s}_s" for s in steps), "error"])]
    for record in records:
        seconds = [f"{record['seconds'][s]:.2f}" if s in record["seconds"] else "" for s in steps]
        error = " ".join(str(record.get("error", "")).split())
        cells = [record["name"], record["status"], str(record.get("regions", "")), *seconds, error]
        lines.append("\t".join(cells))
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 where a scan failed."""
    parser = argparse.ArgumentParser(
        prog="python -m training.parcellation.label",
        description=__doc__.split("\n")[0] if __doc__ else None,
    )
    parser.add_argument("scans", nargs="+", type=Path, help="scan files, or folders of them")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the pairs")
    parser.add_argument("--preprocessing", "--level", choices=PREPROCESSINGS[:2], required=True)
    parser.add_argument("--cleanup", choices=CLEANUPS, default="gentle")
    parser.add_argument("--atlas", help="folder with aal.nii.gz and ch2bet.nii.gz")
    parser.add_argument("--teacher", help="folder of a model that labels in place of registration")
    parser.add_argument(
        "--coarser",
        action="store_true",
        help="with --teacher: also pairs of each scan in larger voxels and in thick slices",
    )
    parser.add_argument(
        "--donors",
        type=Path,
        nargs="+",
        default=[],
        metavar="HEAD",
        help="with --teacher, for scans without skull: also a pair of each brain in a donor's head",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument(
        "--version",
        type=int,
        choices=SCAN_PREPROCESSING,
        default=REPORT_A_VERSION,
        help="of images",
    )
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--scheduler", help="address of an existing Dask scheduler")
    args = parser.parse_args(argv)
    if args.coarser and not args.teacher:
        parser.error("--coarser needs --teacher: a registration knows the scan's own grid alone")
    if args.donors and not (args.teacher and args.preprocessing == "stripped"):
        parser.error("--donors needs --teacher, and scans without skull (--preprocessing stripped)")
    options = Options(
        args.preprocessing,
        args.cleanup,
        args.seed,
        args.atlas,
        args.teacher,
        args.version,
        args.coarser,
        tuple(str(path.resolve()) for path in find_scan_files(args.donors)) if args.donors else (),
    )
    if args.teacher:
        open_teacher(args.teacher)
    else:
        find_atlas(Path(args.atlas) if args.atlas else None)
    records = label_all(
        scan_paths(args.scans), args.output, options, workers=args.workers, scheduler=args.scheduler
    )
    return 1 if any(record["status"] == "failed" for record in records) else 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.parcellation.label"))
