"""Check that site-packages, without pip and setuptools, takes at most 60 MB; print its size."""

import sys
from pathlib import Path

LIMIT_BYTES = 60_000_000
INSTALLERS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")

folder = Path(sys.argv[1])
size = sum(
    file.stat().st_size
    for file in folder.rglob("*")
    if file.is_file() and not file.relative_to(folder).parts[0].startswith(INSTALLERS)
)
print(f"{size / 1e6:.1f} MB")
sys.exit(size > LIMIT_BYTES)
