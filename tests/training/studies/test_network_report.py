"""The report says of two known networks, on known scans, what is known of them."""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import t, wilcoxon

from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.labels import aal116
from neurobento.spec import ModelSpec
from training.studies import network_report as report
from training.studies.findings import REPORT_A
from training.studies.independent_truth import structures
from training.studies.network_report import write_report
from training.studies.report_page import _verdict

PNG = b"\x89PNG\r\n\x1a\n"
NAMES = [region.name for region in aal116()]
VOXEL_TO_RAS = np.diag([1.4, 1.3, 1.0, 1.0])

NOWHERE = 20
"""A region that neither the references nor the networks have."""

MOVED, MISSED, HIPPOCAMPUS = 5, 9, 37
"""What the first network does: this one is i voxels off in scan i, this one is not there in
scans 1 and 2, and this one is always one voxel off."""

LARGEST = 74
"""The second network gives this label to all regions that come after it."""

SCANS = {"near": ("c/t1", "c/t2", "c/t3", "c/t4"), "far": ("d/u5",)}


def cells(*, shift: dict[int, int], without: tuple[int, ...] = ()) -> NDArray[np.uint8]:
    """Every region as a box of 8 x 9 x 10 voxels, some of them shifted along y."""
    labels = np.zeros(NETWORK_SHAPE, np.uint8)
    for region in set(range(1, 117)) - {NOWHERE, *without}:
        place = np.unravel_index(region, (5, 5, 5))
        x, y, z = (n * size + 4 for n, size in zip(place, (18, 24, 24), strict=True))
        y += shift.get(region, 0)
        labels[x : x + 8, y : y + 9, z : z + 10] = region
    return labels


def reference() -> NDArray[np.uint8]:
    return cells(shift={})


def first_network(scan: str) -> NDArray[np.uint8]:
    number = int(scan[-1])
    without = (MISSED,) if number <= 2 else ()
    return cells(shift={MOVED: number, HIPPOCAMPUS: 1}, without=without)


def second_network(scan: str) -> NDArray[np.uint8]:
    return np.minimum(first_network(scan), LARGEST)


NETWORKS = {"compact": first_network, "unet": second_network}


def dice_of(a: NDArray[Any], b: NDArray[Any]) -> float:
    return 2 * int((a & b).sum()) / (int(a.sum()) + int(b.sum()))


@functools.cache
def scan_dice(network: str, scan: str) -> float:
    """Mean over the labels in either map, the background among them."""
    found, truth = NETWORKS[network](scan), reference()
    present = np.union1d(np.unique(found), np.unique(truth))
    return float(np.mean([dice_of(found == i, truth == i) for i in present]))


# --- what the report is made of ---


def write_pair(folder: Path, name: str, image: NDArray[np.float32], labels: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    positions = np.zeros((46, 61, 62, 3), np.float32)
    for what, array in (("image", image), ("labels", labels), ("positions", positions)):
        nib.save(nib.Nifti1Image(array, VOXEL_TO_RAS), f"{path}_{what}.nii.gz")


def write_truth(path: Path, scan: str, scheme: str) -> None:
    """The first network's answer as a segmentation of another scheme, its first axis flipped."""
    aal = first_network(scan)
    labels = np.zeros(NETWORK_SHAPE, np.int16)
    for structure in structures():
        labels[np.isin(aal, structure.values["aal"])] = structure.values[scheme][0]
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = NETWORK_SHAPE[0] - 1
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(labels[::-1].copy(), VOXEL_TO_RAS @ flip), path)


def write_model(folder: Path, known: Path, data: dict[str, Any], **training: Any) -> Path:
    """The known model; all but "compact" give no label above `LARGEST`."""
    import onnx
    from onnx import TensorProto, helper

    shutil.copytree(known, folder)
    if folder.name != "compact":
        model = onnx.load(folder / "model.onnx")
        least = helper.make_node("Min", ["whole", "largest"], ["least"])
        model.graph.node.insert(3, least)
        model.graph.node[4].input[0] = "least"
        largest = helper.make_tensor("largest", TensorProto.FLOAT, [], [LARGEST])
        model.graph.initializer.append(largest)
        onnx.save(model, folder / "model.onnx")
    optimisation = {"batch_size": training.pop("batch_size"), "loss": "dice", "optimiser": "adam"}
    spec = dataclasses.replace(
        ModelSpec.read(known / "spec.json"),
        name=folder.name,
        onnx_sha256=file_sha256(folder / "model.onnx"),
        training={"recipe": {"data": data, "optimisation": optimisation}, **training},
    )
    spec.write(folder / "spec.json")
    return folder


@dataclass(frozen=True)
class Given:
    """What the command line names."""

    models: list[Path]
    pairs: Path
    second: Path
    truth: Path
    cache: Path


@pytest.fixture(scope="module", autouse=True)
def _distances_measured_once() -> Iterator[None]:
    """Surface distances take the longest: those of the same labels are measured once."""
    known: dict[tuple[bytes, ...], Any] = {}
    real = report.hd95

    def hd95(*arrays: Any) -> Any:
        key = tuple(hashlib.sha256(np.ascontiguousarray(each).data).digest() for each in arrays)
        if key not in known:
            known[key] = real(*arrays)
        return known[key].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "hd95", hd95)
        yield


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, known_model: Path) -> Given:
    root = tmp_path_factory.mktemp("given")
    pairs = root / "pairs"
    for scan in (*SCANS["near"], *SCANS["far"]):
        write_pair(pairs, scan, first_network(scan) / np.float32(116), reference())
    for scan in SCANS["near"]:
        labels = cells(shift={30: 3})
        write_pair(root / "second", Path(scan).name, np.zeros(NETWORK_SHAPE, np.float32), labels)
    for scan in ("s1", "s2", "v1"):
        (pairs / "c" / f"{scan}_image.nii.gz").touch()
    write_truth(root / "truth" / "t1_aseg.nii.gz", "c/t1", "aseg")
    write_truth(root / "truth" / "t2_dlmuse.nii.gz", "c/t2", "muse")
    data = {"train": ["c/s*"], "validation": ["c/v*"], "test": {"near": ["c/t*"], "far": ["d/*"]}}
    other = {"train": ["nothing"], "validation": ["nothing"], "test": {"none": ["nothing"]}}
    models = [
        write_model(root / "compact", known_model, data, hours=1.25, steps=30, batch_size=2),
        write_model(root / "unet", known_model, other, hours=2.5, steps=7, batch_size=1),
    ]
    return Given(models, pairs, root / "second", root / "truth", root / "cache")


@dataclass(frozen=True)
class Written:
    """What came of it."""

    text: str
    folder: Path
    figures: dict[str, Figure]

    def file(self, ending: str) -> Path:
        (path,) = (p for p in self.folder.iterdir() if p.name[10:] == ending)
        return path

    @property
    def values(self) -> Any:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        return json.loads(self.file(".json").read_text(), parse_constant=refuse)

    @property
    def regions(self) -> dict[int, dict[str, str]]:
        rows = csv.DictReader(self.file("_regions.csv").read_text().splitlines())
        return {int(row["class_index"]): row for row in rows}

    def table(self, heading: str) -> dict[str, list[str]]:
        """First cell -> the others, of the first table below a heading."""
        lines = self.text.split(f"## {heading}")[1].split("\n## ")[0].splitlines()
        rows = [line[2:-2].split(" | ") for line in lines if line.startswith("| ")]
        return {row[0]: row[1:] for row in rows[2:]}


def whole_report(given: Given, folder: Path) -> str:
    options = {"second_labels": given.second, "truth": given.truth, "cache": given.cache}
    return write_report(given.models, given.pairs, folder, **options)


@pytest.fixture(scope="module")
def written(given: Given, tmp_path_factory: pytest.TempPathFactory) -> Written:
    figures: dict[str, Figure] = {}
    real = Figure.savefig

    def savefig(self: Figure, path: Path, **options: Any) -> None:
        figures[path.name[11:]] = self
        real(self, path, **options)

    folder = tmp_path_factory.mktemp("written") / "new" / "folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        text = whole_report(given, folder)
    return Written(text, folder, figures)


@pytest.fixture
def no_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Surface distances take the longest, and are zero here."""
    monkeypatch.setattr(report, "hd95", lambda *_: np.zeros(117))


# --- the files ---


def test_five_files_of_one_date_are_written_and_every_file_the_text_names(written: Written) -> None:
    names = sorted(path.name for path in written.folder.iterdir())
    date = written.values["date"]
    endings = (".json", ".md", "_best_regions.png", "_regions.csv", "_worst_regions.png")
    assert names == [date + ending for ending in endings]
    assert written.file(".md").read_text() == written.text
    named = {part.split(")")[0] for part in written.text.split("](")[1:]}
    assert {path.name for path in written.folder.iterdir()} - named == {written.file(".md").name}
    assert all((written.folder / name).is_file() for name in named)


def test_the_first_models_recipe_names_the_scans(written: Written) -> None:
    assert "Test scans: near (4), far (1). Training scans: 2." in written.text
    assert written.values["training_scans"] == 2


# --- report A's tables ---


def test_hours_and_epochs_stand_beside_the_reports(written: Written) -> None:
    rows = written.table("Training (table 3.1)")
    assert rows == {"compact": ["", "", "1.25", "30"], "unet": ["0.31", "43", "2.50", "4"]}
    networks = written.values["networks"]
    assert [n["training_epochs"] for n in networks.values()] == [30.0, 3.5]
    assert [n["training_hours"] for n in networks.values()] == [1.25, 2.5]


def test_dice_and_students_intervals_stand_beside_the_reports(written: Written) -> None:
    means = written.table("Dice on near, % (table 4.1)")
    intervals = written.table("95 % intervals, % (table 4.2)")
    papers = {"compact": ("", ""), "unet": ("83.13 ± 0.08", "[82.04, 84.23]")}
    for name, (mean, interval) in papers.items():
        dice = 100 * np.array([scan_dice(name, scan) for scan in SCANS["near"]])
        ours = f"{dice.mean():.2f} ± {dice.std(ddof=1):.2f}"
        assert means[name] == [mean, "dice, adam", ours]
        low, high = t.interval(0.95, 3, dice.mean(), dice.std(ddof=1) / 2)
        assert intervals[name] == [interval, f"[{low:.2f}, {high:.2f}]"]


def test_prediction_times_are_of_the_first_groups_scans(written: Written) -> None:
    rows = written.table("Prediction time, s (table 4.3)")
    assert [rows[name][0] for name in NETWORKS] == ["", "0.079 ± 0.013"]
    for name, found in written.values["networks"].items():
        seconds = found["prediction_s"]
        assert len(seconds) == 4 and min(seconds) > 0
        assert float(rows[name][1].split(" ± ")[0]) == pytest.approx(np.mean(seconds), abs=6e-4)


def test_the_reports_spread_is_no_percentage() -> None:
    """A 95 % interval of 200 scans is 2 x 1.972 / sqrt(200) standard deviations wide."""
    for name, implied in (("highresnet", 8.9), ("unet", 7.9)):
        low, high = REPORT_A[name]["interval"]
        sd = (high - low) / 2 * 200**0.5 / t.ppf(0.975, 199)
        assert sd == pytest.approx(implied, abs=0.05)
        assert sd / 100 == pytest.approx(REPORT_A[name]["spread"], abs=0.005)


# --- scores ---


@pytest.mark.parametrize("name", NETWORKS)
def test_every_scan_of_every_group_has_its_dice(written: Written, name: str) -> None:
    groups = written.values["networks"][name]["groups"]
    assert list(groups) == list(SCANS)
    for group, scans in SCANS.items():
        expected = {scan: scan_dice(name, scan) for scan in scans}
        assert groups[group]["scans"] == pytest.approx(expected, abs=1e-4)
        assert groups[group]["summary"]["count"] == len(scans)


def test_a_group_of_one_scan_has_no_spread(written: Written) -> None:
    row = written.table("Every test group, mean Dice ± SD")["far"]
    assert row == ["1", *(f"{scan_dice(name, 'd/u5'):.4f}" for name in NETWORKS)]


def test_missing_regions_are_counted_over_the_first_groups_scans(written: Written) -> None:
    lost = 116 - LARGEST
    rows = written.table("Regions on near")
    assert rows["compact"][:2] == ["2", "0"]
    assert rows["unet"][:2] == [str(4 * lost + 2), str(lost)]
    networks = written.values["networks"]
    assert [n["regions_missing"] for n in networks.values()] == [2, 4 * lost + 2]
    assert networks["unet"]["groups"]["near"]["regions_never_predicted"] == NAMES[LARGEST:]


def test_the_region_table_has_dice_distance_and_missing_scans(written: Written) -> None:
    rows = written.regions
    assert [row["name"] for row in rows.values()] == NAMES
    moved = np.array([1 - i / 9 for i in (1, 2, 3, 4)])
    assert float(rows[MOVED]["compact_dice_mean"]) == pytest.approx(moved.mean(), abs=1e-4)
    assert float(rows[MOVED]["compact_dice_sd"]) == pytest.approx(moved.std(ddof=1), abs=1e-4)
    distance_mm = 1.3 * np.mean([1, 2, 3, 4])
    assert float(rows[MOVED]["compact_hd95_mm_mean"]) == pytest.approx(distance_mm, abs=1e-4)
    assert rows[MOVED]["compact_missing_scans"] == "0"
    assert rows[MISSED]["compact_dice_mean"] == "0.5000"
    assert rows[MISSED]["compact_hd95_mm_mean"] == "0.0000"
    assert rows[MISSED]["compact_missing_scans"] == "2"
    last = [rows[116][f"unet_{what}"] for what in ("dice_mean", "hd95_mm_mean", "missing_scans")]
    assert last == ["0.0000", "", "4"]
    assert [c for key, c in rows[NOWHERE].items() if "dice" in key] == [""] * 5
    assert rows[NOWHERE]["compact_missing_scans"] == "0"


def test_the_noise_ceiling_is_of_the_first_groups_second_labels(written: Written) -> None:
    """One of 115 regions and a background is three voxels of nine off."""
    found = written.values["noise_ceiling"]["scans"]
    background = dice_of(reference() == 0, cells(shift={30: 3}) == 0)
    expected = (114 + 2 / 3 + background) / 116
    assert found == pytest.approx(dict.fromkeys(SCANS["near"], expected), abs=1e-4)
    assert f"with another seed: {100 * expected:.2f} ± 0.00 %." in written.text
    assert written.regions[30]["noise_ceiling_dice_mean"] == "0.6667"


def test_networks_are_compared_by_wilcoxons_test(written: Written) -> None:
    a, b = (np.array([scan_dice(n, s) for s in SCANS["near"]]) for n in NETWORKS)
    near, far = written.values["comparisons"]
    assert (near["group"], near["a"], near["b"], near["scans"]) == ("near", "compact", "unet", 4)
    assert near["difference"] == pytest.approx((a - b).mean(), abs=1e-4) and near["difference"] > 0
    assert near["p"] == pytest.approx(wilcoxon(a, b).pvalue)
    assert (far["group"], far["p"]) == ("far", None)
    rows = written.table("Differences between networks")
    assert list(rows) == ["near"]
    assert rows["near"] == ["compact - unet", "4", f"{(a - b).mean():+.4f}", f"{near['p']:.2g}"]


# --- independent truth ---


def test_the_truths_table_has_registration_and_the_networks(written: Written) -> None:
    """The truth is the first network's answer; registration's hippocampus is one voxel off."""
    rows = written.table("Independent truth: near, 2 scans, mean Dice")
    assert rows["hippocampus left"] == [f"{8 / 9:.3f}", "1.000", "1.000"]
    assert rows["hippocampus right"] == ["1.000"] * 3
    assert rows["pallidum left"] == ["1.000", "1.000", "0.000"]
    assert rows["cerebellum both"] == ["1.000", "1.000", "0.000"]
    assert len(rows) == len(structures()) + 1
    dice = written.values["independent_truth"]["near"]["dice"]
    assert list(dice) == ["registration", "compact", "unet"]
    assert rows["mean"] == [f"{np.mean(list(of.values())):.3f}" for of in dice.values()]


def test_a_verdict_says_which_side_of_registration_a_network_is_on(written: Written) -> None:
    found = written.values["independent_truth"]["near"]["against_registration"]
    closer, farther = found["compact"], found["unet"]
    dice = written.values["independent_truth"]["near"]["dice"]
    means = {maker: np.mean(list(of.values())) for maker, of in dice.items()}
    assert closer["difference"] == pytest.approx(1 - means["registration"], abs=1e-4)
    assert farther["difference"] == pytest.approx(means["unet"] - means["registration"], abs=1e-4)
    assert closer["difference"] > 0 > farther["difference"]
    for name, side in (("compact", "closer to"), ("unet", "farther from")):
        assert (
            f"`{name}` is {side} the independent truth than the registration that taught it, "
            f"by {abs(found[name]['difference']):.3f} of mean Dice (p = 0.5): it may be chance."
        ) in written.text


@pytest.mark.parametrize(
    ("p", "end"), [(0.04, "(p = 0.040)."), (0.05, "(p = 0.050): it may be chance.")]
)
def test_a_verdict_says_where_it_may_be_chance(p: float, end: str) -> None:
    assert _verdict("unet", {"difference": 0.1, "p": p, "p_text": f"{p:.3f}"}).endswith(end)


def test_a_verdict_without_a_difference_takes_no_side() -> None:
    sentence = _verdict("unet", {"difference": 0.0, "p_text": "n/a"})
    assert "`unet` is as far from the independent truth as the registration" in sentence


@pytest.mark.usefixtures("no_distances")
def test_without_truth_and_second_labels_there_are_no_such_parts(
    given: Given, tmp_path: Path, written: Written
) -> None:
    text = write_report(given.models[:1], given.pairs, tmp_path, cache=given.cache)
    alone = Written(text, tmp_path, {})
    for words in ("Independent truth", "Noise ceiling"):
        assert words in written.text and words not in text
    assert alone.values["independent_truth"] == {}
    assert alone.values["noise_ceiling"] is None
    assert not any(key.startswith("noise_ceiling") for key in alone.regions[1])
    assert alone.table("Dice on near, % (table 4.1)").keys() == {"compact"}


# --- predictions are kept ---


@dataclass
class Counted:
    """A backend that counts the scans it sees."""

    backend: Any
    scans: list[int]

    def infer(self, images: Any) -> Any:
        self.scans.append(len(images))
        return self.backend.infer(images)

    def close(self) -> None:
        self.backend.close()


@pytest.fixture
def scans_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    real: Callable[..., Any] = report.open_backend
    monkeypatch.setattr(report, "open_backend", lambda model: Counted(real(model), seen))
    return seen


def test_a_second_call_infers_nothing_and_says_the_same(
    given: Given, written: Written, tmp_path: Path, scans_seen: list[int]
) -> None:
    again = whole_report(given, tmp_path)
    date = next(tmp_path.glob("*.md")).stem
    assert again.replace(date, written.values["date"]) == written.text
    assert scans_seen == []


@pytest.mark.usefixtures("no_distances")
@pytest.mark.parametrize("cache", ["interrupted", None])
def test_scans_that_are_not_kept_are_inferred_after_one_to_warm_up(
    given: Given, written: Written, tmp_path: Path, scans_seen: list[int], cache: str | None
) -> None:
    kept = tmp_path / cache if cache else None
    if kept:
        shutil.copytree(given.cache, kept)
        for path in kept.rglob("c_t[24].npz"):
            path.unlink()
    write_report(given.models[:1], given.pairs, tmp_path / "out", cache=kept)
    assert scans_seen == [1] * (1 + (2 if kept else 5))


# --- figures ---


def chosen(figure: Figure) -> list[int]:
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    return [NAMES.index(label) + 1 for label in labels]


def boxes(figure: Figure) -> list[Any]:
    """The boxes' colours, network by network."""
    return [patch.get_facecolor() for patch in figure.axes[0].patches]


def region_medians() -> dict[int, float]:
    """Of each region that is anywhere, over both networks and all scans of the first group."""
    truth = reference()
    answers = [network(scan) for network in NETWORKS.values() for scan in SCANS["near"]]
    return {
        i: float(np.median([dice_of(found == i, truth == i) for found in answers]))
        for i in range(1, 117)
        if i != NOWHERE
    }


@pytest.mark.parametrize("kind", ["best", "worst"])
def test_the_figures_are_pictures_with_one_colour_for_each_network(
    written: Written, kind: str
) -> None:
    assert written.file(f"_{kind}_regions.png").read_bytes().startswith(PNG)
    figure = written.figures[f"{kind}_regions.png"]
    first, second = to_rgba("C0"), to_rgba("C1")
    assert boxes(figure) == [first] * 5 + [second] * 5
    handles, labels = figure.axes[0].get_legend_handles_labels()
    assert labels == ["compact", "unet"]
    assert [to_rgba(handle.get_color()) for handle in handles] == [first, second]


def test_the_figures_show_the_five_best_and_the_five_worst(written: Written) -> None:
    medians = region_medians()
    ranked = sorted(medians.values())
    best, worst = (chosen(written.figures[f"{kind}_regions.png"]) for kind in ("best", "worst"))
    assert len({*best, *worst}) == 10
    assert sorted(medians[i] for i in best) == ranked[-5:]
    assert sorted(medians[i] for i in worst) == ranked[:5]


def write_split(path: Path, **groups: list[str]) -> Path:
    lines = [f"{name} = {json.dumps(patterns)}" for name, patterns in groups.items()]
    path.write_text('train = ["c/s*"]\nvalidation = ["c/v*"]\n[test]\n' + "\n".join(lines) + "\n")
    return path


@pytest.mark.usefixtures("no_distances")
def test_a_split_file_names_other_scans_and_groups_choose_among_them(
    given: Given, tmp_path: Path
) -> None:
    split = write_split(tmp_path / "split.toml", both=["c/t*", "d/*"])
    text = write_report(
        given.models[:1], given.pairs, tmp_path / "out", cache=given.cache, split_file=split
    )
    assert "Test scans: both (5)." in text
    text = write_report(given.models[:1], given.pairs, tmp_path, cache=given.cache, groups=["far"])
    assert f"Test scans: far ({len(SCANS['far'])})." in text


def test_an_unknown_group_and_two_models_of_one_name_are_refused(
    given: Given, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"nearby.*near, far"):
        write_report(given.models, given.pairs, tmp_path, groups=["nearby"])
    with pytest.raises(ConfigError, match="two of that name"):
        write_report([given.models[0]] * 2, given.pairs, tmp_path)


def test_a_model_that_saw_a_test_scan_is_refused(given: Given, tmp_path: Path) -> None:
    split = write_split(tmp_path / "split.toml", near=["c/t*", "c/s1"])
    split.write_text(split.read_text().replace("c/s*", "c/s2"))
    with pytest.raises(ConfigError, match=r"compact.*trained on c/s1"):
        write_report(given.models, given.pairs, tmp_path, split_file=split)
