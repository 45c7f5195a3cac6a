"""The region table against the atlas's own list and its own laws."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import matplotlib.colors
import pytest

import neurobento
from neurobento.labels import CLASS_COUNT, Region, aal116

REGIONS = list(aal116())
TABLE = Path(neurobento.__file__ or "").parent / "data" / "aal116.tsv"


def test_there_are_116_regions_and_a_background() -> None:
    assert len(aal116()) == len(REGIONS) == 116
    assert CLASS_COUNT == 117


def test_class_indices_count_up_from_one() -> None:
    assert [r.class_index for r in REGIONS] == list(range(1, 117))


@pytest.mark.shared
def test_indices_names_and_codes_are_the_atlass_line_by_line(shared: Path) -> None:
    lines = (shared / "atlas" / "aal.nii.txt").read_text().split("\n")
    expected = [line.split() for line in lines if line.strip()]
    assert [[str(r.class_index), r.name, str(r.aal_code)] for r in REGIONS] == expected


@pytest.mark.parametrize("region", REGIONS, ids=lambda r: r.name)
def test_a_regions_side_is_its_suffix(region: Region) -> None:
    suffixes = {"_L": "left", "_R": "right"}
    assert region.side == suffixes.get(region.name[-2:], "midline")


def test_the_vermis_alone_lies_on_the_midline() -> None:
    midline = [r.name for r in REGIONS if r.side == "midline"]
    assert len(midline) == 8
    assert all(name.startswith("Vermis_") for name in midline)


@pytest.mark.parametrize("column", ["aal_code", "name", "colour"])
def test_no_two_regions_share_a(column: str) -> None:
    assert len({getattr(r, column) for r in REGIONS}) == len(REGIONS)


def test_no_region_has_the_backgrounds_colour() -> None:
    assert "#000000" not in {r.colour for r in REGIONS}


@pytest.mark.parametrize("region", REGIONS[::23], ids=lambda r: r.name)
def test_rgb_is_the_colour_as_matplotlib_reads_it(region: Region) -> None:
    assert region.rgb == tuple(round(255 * v) for v in matplotlib.colors.to_rgb(region.colour))


def test_opposite_is_an_involution_without_fixed_points() -> None:
    for region in REGIONS:
        other = aal116().opposite(region)
        if region.side == "midline":
            assert other is None
        else:
            assert other is not None
            assert other is not region
            assert aal116().opposite(other) is region


def test_twins_differ_in_side_alone() -> None:
    for region in REGIONS:
        other = aal116().opposite(region)
        if other is not None:
            assert {region.side, other.side} == {"left", "right"}
            assert region.name[:-2] == other.name[:-2]
            assert region.lobe == other.lobe


def test_the_cerebellum_and_the_vermis_are_in_the_cerebellum() -> None:
    """The atlas numbers them from 9001 on."""
    for region in REGIONS:
        assert (region.lobe == "cerebellum") == (region.aal_code >= 9000), region.name


@pytest.mark.parametrize("index", [1, 57, 116])
def test_the_table_is_indexed_by_class_index(index: int) -> None:
    assert aal116()[index].class_index == index


@pytest.mark.parametrize("index", [-1, 0, 117])
def test_an_index_without_a_region_is_a_key_error(index: int) -> None:
    with pytest.raises(KeyError, match=f"{index} is not in"):
        aal116()[index]


def test_the_hash_is_that_of_the_file() -> None:
    assert aal116().sha256 == hashlib.sha256(TABLE.read_bytes()).hexdigest()


def test_the_lookup_table_parses_into_the_same_regions() -> None:
    rows = list(csv.DictReader(aal116().lookup_tsv().splitlines(), delimiter="\t"))
    background, *regions = rows
    assert (background["index"], background["name"]) == ("0", "Background")
    assert [
        Region(
            int(row["index"]),
            int(row["aal_code"]),
            row["name"],
            row["side"],  # type: ignore[arg-type]
            row["lobe"],
            row["color"],
        )
        for row in regions
    ] == REGIONS


def test_the_lookup_table_begins_with_the_columns_that_bids_names() -> None:
    assert aal116().lookup_tsv().splitlines()[0].split("\t")[:3] == ["index", "name", "color"]
