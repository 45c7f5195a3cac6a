"""The scans of a cohort: found, named after BIDS, each with an output folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from neurobento.cohort.scans import find_scan_files, find_scans
from neurobento.errors import ConfigError

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
