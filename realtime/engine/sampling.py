"""Which entities a session is shown when its view holds more than it may show.

Law: a session sees the entities whose key lies below its threshold, and nothing else decides. The key is the
publisher's rank, then a hash of the id: whatever the view, the same entities are the important ones, so nothing
flickers while the view pans. The threshold stands until `must_choose` says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nsmallest

from realtime.engine.digest import sample_hash

Key = tuple[float, int]  # rank 0..1, then fmix32(FNV-1a-32(id))
Threshold = Key | None  # None: everything is shown


def sample_key(rank: float, id: str) -> Key:
    """Return the key of an entity; the lower, the more important."""
    return (rank, sample_hash(id))


def must_choose(shown: int, threshold: Threshold, shown_max: int) -> bool:
    """Tell whether a threshold that lets `shown` entities through has to be chosen again."""
    return shown > shown_max or (threshold is not None and shown * 2 < shown_max)


def choose(keys: Iterable[Key], count: int, shown_max: int) -> Threshold:
    """Return the threshold below which three quarters of `shown_max` of the `count` keys lie; None if there are no more."""
    target = max(1, shown_max * 3 // 4)
    if count <= target:
        return None
    return nsmallest(target + 1, keys)[target]
