"""The limits on a scan, checked before its voxels are read."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ScanLimits"]


@dataclass(frozen=True)
class ScanLimits:
    """Bounds on what a scan's file and header may claim."""

    # The file as stored.
    max_file_bytes: int = 512 << 20
    # A gzip stream may inflate to this multiple of its size, beyond the free bytes. Stripped
    # 8-bit brains reach about 12; DEFLATE itself ends at 1032.
    max_gzip_ratio: int = 250
    free_inflation_bytes: int = 1 << 20
    # Voxels along each axis.
    min_axis: int = 16
    max_axis: int = 512
    # 512 x 512 x 256, a head at 0.5 mm.
    max_voxels: int = 1 << 26
    # That head in float32. Float64 takes seconds to inflate before a blank scan is recognised.
    max_voxel_bytes: int = 256 << 20
    # Edge lengths of a voxel.
    min_voxel_mm: float = 0.3
    max_voxel_mm: float = 7.0
    # The field of view along each axis and in all. Preprocessing resamples it to 1 mm, so these
    # bound its memory: 64,000 ml are 64 million voxels, a cube of 400 mm.
    max_extent_mm: float = 520.0
    max_volume_ml: float = 64_000.0
