"""Beginnings of prompts whose keys and values are kept, so that a request runs only what is new in it.

They are found by content: a beginning is named by a hash of its tokens, at the places where prompts can agree (after the
template, after each history entry). So nothing can be stale, and no request needs to say who the user is.
"""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from torch import Tensor


class PrefixStore:
    """Kept beginnings, [layers, 2, tokens, G, D] each. Templates always stay; of the rest, the least recently used goes first.

    capacity: bytes for the beginnings of users' histories; 0 keeps templates only.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ValueError(f"a prefix cache of {capacity} bytes: give 0 or more")
        self.capacity = capacity
        self.bytes = 0
        self.hits = 0
        """Requests that found more than their template."""
        self._templates: dict[bytes, Tensor] = {}
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._turn = Lock()

    def find(self, names: Sequence[bytes]) -> Tensor | None:
        """The longest kept beginning among `names` (shortest first)."""
        with self._turn:
            for name in reversed(names):
                if name in self._kept:
                    self._kept.move_to_end(name)
                    self.hits += 1
                    return self._kept[name]
                if name in self._templates:
                    return self._templates[name]
            return None

    def has_template(self, names: Sequence[bytes]) -> bool:
        """Whether the shortest beginning is kept."""
        return names[0] in self._templates

    def keep_template(self, names: Sequence[bytes], prefix: Tensor) -> None:
        """Keep the shortest beginning for good."""
        self._templates[names[0]] = prefix

    def keep(self, names: Sequence[bytes], prefix: Tensor) -> None:
        """Keep the longest beginning, in place of the shorter ones of the same history, within `capacity`."""
        size = prefix.nbytes
        if size > self.capacity:
            return
        with self._turn:
            for name in names:
                self._forget(name)
            while self.bytes + size > self.capacity:
                self._forget(next(iter(self._kept)))
            self._kept[names[-1]] = prefix
            self.bytes += size

    def _forget(self, name: bytes) -> None:
        gone = self._kept.pop(name, None)
        if gone is not None:
            self.bytes -= gone.nbytes

    def __len__(self) -> int:
        return len(self._kept)
