"""Where each id was first seen, in few bytes per id, so that any number of ids can be checked."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence

_NUMBER_BITS = 40


class Origins:
    """The origins of ids, in 16 bytes per id.

    Ids are told apart by 64-bit hashes: a billion different ones all differ with 97 % probability.
    An origin is kept as its last number and the text around it, which many origins share.

    Args:
        num_recent: Smallest number of new ids that are moved among the sorted ones at a time.

    Example:
        >>> origins = Origins()
        >>> [origins.first(id, f"a.jsonl:{line}") for line, id in enumerate("xyx", start=1)]
        [None, None, 'a.jsonl:1']
    """

    def __init__(self, num_recent: int = 1 << 16) -> None:
        self._num_recent = num_recent
        self._recent: dict[int, int] = {}
        self._keys: Sequence[int] = ()
        self._places: Sequence[int] = ()
        self._around: dict[tuple[str, str | None], int] = {}

    def first(self, id: Hashable, origin: str) -> str | None:
        """Note where an id is; return where it was before, if it was noted before."""
        key = hash(id)
        place = self._recent.get(key)
        if place is None:
            place = self._merged(key)
        if place is not None:
            return self._origin(place)
        self._recent[key] = self._place(origin)
        if len(self._recent) >= max(self._num_recent, len(self._keys) // 16):
            self._merge()
        return None

    def _merged(self, key: int) -> int | None:
        index = bisect_left(self._keys, key)
        found = index < len(self._keys) and self._keys[index] == key
        return self._places[index] if found else None

    def _merge(self) -> None:
        import numpy as np

        recent = np.array([*self._recent.items()], np.int64)
        recent = recent[np.argsort(recent[:, 0])]
        keys, places = (np.asarray(known, np.int64) for known in (self._keys, self._places))
        where = np.searchsorted(keys, recent[:, 0])
        self._keys = np.insert(keys, where, recent[:, 0]).data  # its items are plain integers
        self._places = np.insert(places, where, recent[:, 1]).data
        self._recent = {}

    def _place(self, origin: str) -> int:
        """Return an origin as a number: what is around its last number, then that number."""
        closed = origin.rstrip("]")
        before = closed.rstrip("0123456789")
        number = closed[len(before) :]
        around: tuple[str, str | None] = (before, origin[len(closed) :])
        if not number.isascii() or str(int(number or 0)) != number or len(number) > 11:
            around, number = (origin, None), "0"
        return self._around.setdefault(around, len(self._around)) << _NUMBER_BITS | int(number)

    def _origin(self, place: int) -> str:
        index, number = divmod(place, 1 << _NUMBER_BITS)
        before, after = next(key for key, value in self._around.items() if value == index)
        return before if after is None else f"{before}{number}{after}"
