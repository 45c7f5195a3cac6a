"""What a long-lived process keeps of its memory, and how long it looks at it."""

from __future__ import annotations

import gc

from neurobento.serving.process.memory import freeze_gc


def test_a_collection_after_the_imports_looks_at_none_of_them() -> None:
    try:
        freeze_gc()
        assert gc.get_freeze_count() > 10_000
        assert len(gc.get_objects()) < 1_000
        assert gc.isenabled()
    finally:
        gc.unfreeze()
