"""The scans of a cohort: found, named after BIDS, each with an output folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from neurobento.cohort.scans import find_scan_files, find_scans
from neurobento.errors import ConfigError, UnreadableScan
from neurobento.files import require_regular_file

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(*names: str, root: str = "data") -> Path:
        for name in names:
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / root

    return build


def places(inputs: list[Path], output: Path) -> list[str]:
    return [str(scan.subfolder) for scan in find_scans(inputs, output)]


def test_a_bids_dataset_keeps_its_entities(make: Make, tmp_path: Path) -> None:
    data = make(
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_FLAIR.nii.gz",
        "sub-01/ses-a/func/sub-01_ses-a_task-rest_bold.nii.gz",
        "sub-02/anat/sub-02_run-1_T1w.nii.gz",
        "derivatives/fs/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
        "sub-02/anat/._sub-02_run-1_T1w.nii.gz",
    )
    found = find_scans([data], tmp_path / "out")
    assert [(str(s.subfolder), s.participant, s.session) for s in found] == [
        ("sub-01/ses-a/anat/sub-01_ses-a_T1w", "sub-01", "ses-a"),
        ("sub-02/anat/sub-02_run-1_T1w", "sub-02", None),
    ]


@pytest.mark.parametrize(
    ("name", "participant", "session"),
    [
        ("sub-01_ses-2_T1w.nii.gz", "sub-01", "ses-2"),
        ("sub-01.nii", "sub-01", None),
        ("sub-X7/T1.nii", "sub-X7", None),
        ("sub-1/ses-pre/T1.nii", "sub-1", "ses-pre"),
        ("mysub-1.nii", None, None),
        ("T1.nii", None, None),
    ],
)
def test_participant_and_session_are_read_where_they_stand(
    make: Make, tmp_path: Path, name: str, participant: str | None, session: str | None
) -> None:
    (scan,) = find_scans([make(name)], tmp_path / "out")
    assert (scan.participant, scan.session) == (participant, session)


@pytest.mark.parametrize(
    ("files", "inputs", "expected"),
    [
        ("b/T1.nii.gz a/T1.nii T1.mgz notes.txt", ".", "T1 a/T1 b/T1"),
        (
            "a/T1.nii b/T1.nii sub-03/anat/T1.nii",
            "a/T1.nii b/T1.nii sub-03/anat/T1.nii",
            "a/T1 b/T1 sub-03/anat/T1",
        ),
        ("a/T1.nii b/x/T1.nii", "a b", "a/T1 b/x/T1"),
        ("sub-1/T1.nii sub-2/T1.nii", "sub-1/T1.nii .", "sub-1/T1 sub-2/T1"),
        ("a/T1.nii out/a/T1/T1_dseg.nii.gz", ".", "a/T1"),
    ],
    ids=["mirrored", "one by one", "several folders", "given twice", "earlier outputs"],
)
def test_scans_keep_their_folders_and_count_once(
    make: Make, files: str, inputs: str, expected: str
) -> None:
    data = make(*files.split())
    found = places([data / each for each in inputs.split()], data / "out")
    assert found == expected.split()


@pytest.mark.parametrize("names", [("T1.nii", "T1.nii.gz"), ("a.nii", "a/b.nii")])
def test_scans_whose_outputs_would_mix_are_refused(
    make: Make, tmp_path: Path, names: tuple[str, str]
) -> None:
    with pytest.raises(ConfigError, match="separate output folders"):
        find_scans([make(*names)], tmp_path / "out")


def test_no_scan_is_refused_and_a_missing_input_is_an_error(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found no scan"):
        find_scans([make("a.txt")], tmp_path)
    with pytest.raises(ConfigError, match="found no scan"):
        find_scan_files([make("b.md")])
    with pytest.raises(FileNotFoundError):
        find_scans([tmp_path / "nowhere.nii"], tmp_path / "out")


def test_a_link_gives_its_own_name(make: Make, tmp_path: Path) -> None:
    """DataLad and git-annex keep contents under names of their own."""
    content = make("annex/MD5E-1234.nii.gz", root="content") / "annex/MD5E-1234.nii.gz"
    link = make(root="data") / "sub-01" / "sub-01_T1w.nii.gz"
    link.parent.mkdir(parents=True)
    link.symlink_to(content)
    for given in (link, tmp_path / "data"):
        assert places([given], tmp_path / "out") == ["sub-01/sub-01_T1w"]


def link(at: Path, to: str) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(to)


def test_linked_folders_are_followed_and_loops_caught(make: Make, tmp_path: Path) -> None:
    make("sub-02/anat/s2.nii.gz", root="store")
    data = make("sub-01/anat/s1.nii.gz")
    link(data / "sub-02", "../store/sub-02")
    link(data / "sub-01" / "again", "..")
    link(data / "sub-03", "sub-03")
    found = ["sub-01/anat/s1", "sub-02/anat/s2"]
    assert places([data], tmp_path / "out") == found
    # two that link to one folder outside are two subjects
    link(data / "sub-04", "../store/sub-02")
    assert places([data], tmp_path / "out") == [*found, "sub-04/anat/s2"]


def test_a_link_whose_content_is_not_there_is_a_scan_that_says_so(
    make: Make, tmp_path: Path
) -> None:
    data = make("sub-01/anat/s1.nii.gz")
    link(data / "sub-03/anat/s3.nii.gz", "../../../.git/annex/objects/not-fetched.nii.gz")
    scans = find_scans([data], tmp_path / "out")
    assert [scan.path.name for scan in scans] == ["s1.nii.gz", "s3.nii.gz"]
    with pytest.raises(UnreadableScan, match=r"a link whose content is not here.*datalad get"):
        require_regular_file(scans[1].path)
    assert places([scans[1].path], tmp_path / "out") == ["sub-03/anat/s3"]


def test_suffixes_are_recognised_in_capitals(make: Make, tmp_path: Path) -> None:
    data = make("D.NII.GZ", "E.Nii", "F.MGZ", "G.NIF")
    assert places([data], tmp_path / "out") == ["D", "E", "F"]
    assert places([data / "D.NII.GZ"], tmp_path / "out") == ["data/D"]


def test_hidden_folders_are_passed_over(make: Make, tmp_path: Path) -> None:
    data = make(".git/annex/aa/K.nii.gz/K.nii.gz", ".snapshot/daily/p1/scan.nii.gz")
    link(data / "p1" / "scan.nii.gz", "../.git/annex/aa/K.nii.gz/K.nii.gz")
    assert places([data], tmp_path / "out") == ["p1/scan"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # beside it: the scan itself
        ("real/T1.nii.gz", ["real/T1"]),
        # in folders and under names that are left out: the link
        ("sourcedata/T1.nii.gz", ["latest_T1w"]),
        ("out/T1.nii.gz", ["latest_T1w"]),
    ],
)
def test_a_link_and_its_target_count_once(target: str, expected: list[str], make: Make) -> None:
    data = make(target)
    name = "latest_T1w" if expected == ["latest_T1w"] else "latest"
    link(data / f"{name}.nii.gz", target)
    assert places([data], data / "out") == expected


def test_a_link_named_as_bids_wants_it_stands_for_another_file(make: Make, tmp_path: Path) -> None:
    data = make("dicom2niix/scan.nii.gz")
    link(data / "sub-01" / "sub-01_T1w.nii.gz", "../dicom2niix/scan.nii.gz")
    assert places([data], tmp_path / "out") == ["sub-01/sub-01_T1w"]
