"""Malformed files in one call of the command: each is told with its path, the good one is done."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path

import pytest

from neurobento.cli.main import main
from tests.malformed_files.cases import Case, malformed
from tests.malformed_files.scan_bytes import SECRET, network

SEED, COUNT = 18, 1200
SAMPLE = 250
LARGEST = 4 << 20


def sample(preprocessing: str) -> Iterator[Case]:
    """Files that have to be refused with that preprocessing, of all kinds as many each."""
    kinds: dict[str, list[Case]] = {}
    for case in malformed(SEED, COUNT):
        is_sent = case.options["preprocessing"] == preprocessing and len(case.content) < LARGEST
        if is_sent and case.expected and case.kind != "file name":
            kinds.setdefault(case.kind, []).append(case)
    turns = chain.from_iterable(zip_longest(*kinds.values()))
    return (case for case in list(filter(None, turns))[:SAMPLE])


@pytest.mark.parametrize(("preprocessing", "least"), [("none", SAMPLE), ("stripped", 10)])
def test_each_malformed_file_is_told_with_its_path_and_the_good_one_is_done(
    preprocessing: str,
    least: int,
    known_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = {}
    for number, case in enumerate(sample(preprocessing)):
        path = tmp_path / f"scan-{number}.nii.gz"
        path.write_bytes(case.content)
        files[path] = case
    assert len(files) >= least
    good = tmp_path / "good.nii.gz"
    good.write_bytes(network(carrier="NIfTI-1 gzip"))
    further = [good] if preprocessing == "none" else []
    arguments = ["-o", str(tmp_path / "out"), "--models", str(known_model.parent)]
    arguments += ["--preprocessing", preprocessing]
    assert main(["parcellate", *map(str, [*files, *further]), *arguments]) == 1
    captured = capsys.readouterr()
    told = captured.err.splitlines()
    silent = [
        case.name
        for path, case in files.items()
        if not any(line.startswith(f"neurobento: {path}: expected ") for line in told)
    ]
    assert silent == []
    assert SECRET.decode() not in captured.err
    done = [str(tmp_path / "out" / "good_dseg.nii.gz")] if further else []
    assert captured.out.splitlines() == done
