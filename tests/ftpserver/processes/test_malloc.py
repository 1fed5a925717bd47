"""What the collector of cycles is told."""

from __future__ import annotations

import gc

from ftpserver.processes.malloc import keep_what_is_there


def test_a_full_collection_passes_over_what_is_there_for_good():
    there = [[] for _ in range(1000)]
    before = gc.get_freeze_count()
    keep_what_is_there()
    try:
        assert gc.get_freeze_count() >= before + len(there)
        assert not any(one is there for one in gc.get_objects())
    finally:
        gc.unfreeze()
