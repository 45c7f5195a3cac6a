"""The regions of the AAL atlas and their class indices.

Tzourio-Mazoyer et al., NeuroImage 2002; indices, codes and names are those of `aal.nii.txt` in
Debian's mricron-data. "Cerebelum" is the atlas's own spelling.
"""

from __future__ import annotations

import csv
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Literal

__all__ = ["CLASS_COUNT", "Region", "RegionTable", "aal116"]

CLASS_COUNT = 117
"""116 regions and the background, class index 0."""

Side = Literal["left", "right", "midline"]


@dataclass(frozen=True)
class Region:
    """One named AAL region."""

    # 1..116, the value of its voxels in a parcellation.
    class_index: int
    # The atlas's own number, such as 2001.
    aal_code: int
    # The atlas's own name, such as "Precentral_L".
    name: str
    # The vermis is on the midline.
    side: Side
    lobe: str
    # "#rrggbb", for pictures and look-up tables.
    colour: str

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, 0..255."""
        value = int(self.colour[1:], 16)
        return value >> 16, value >> 8 & 255, value & 255


@dataclass(frozen=True)
class RegionTable:
    """All regions in order of class index."""

    # Class index 1 comes first.
    regions: tuple[Region, ...]
    # The hash of the table's file, which a model's spec names.
    sha256: str

    def __iter__(self) -> Iterator[Region]:
        return iter(self.regions)

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, class_index: int) -> Region:
        if not 1 <= class_index <= len(self.regions):
            raise KeyError(f"class index {class_index} is not in 1..{len(self.regions)}")
        return self.regions[class_index - 1]

    def opposite(self, region: Region) -> Region | None:
        """Return the same region on the other side, or None on the midline."""
        if region.side == "midline":
            return None
        other = "_R" if region.side == "left" else "_L"
        return next(r for r in self.regions if r.name == region.name[:-2] + other)

    def lookup_tsv(self) -> str:
        """Return a BIDS look-up table with the AAL code, side and lobe as further columns."""
        lines = ["index\tname\tcolor\taal_code\tside\tlobe"]
        lines.append("0\tBackground\t#000000\t0\tn/a\tn/a")
        lines += [
            f"{r.class_index}\t{r.name}\t{r.colour}\t{r.aal_code}\t{r.side}\t{r.lobe}" for r in self
        ]
        return "\n".join(lines) + "\n"


@functools.cache
def aal116() -> RegionTable:
    """Return the table in `data/aal116.tsv`."""
    data = resources.files("neurobento").joinpath("data/aal116.tsv").read_bytes()
    rows = csv.DictReader(data.decode().splitlines(), delimiter="\t")
    regions = tuple(
        Region(
            int(row["class_index"]),
            int(row["aal_code"]),
            row["name"],
            row["side"],  # type: ignore[arg-type]
            row["lobe"],
            row["colour"],
        )
        for row in rows
    )
    return RegionTable(regions, hashlib.sha256(data).hexdigest())
