"""The catalogue without a tree: sorted integer keys, where a code prefix is a range and its children are found by search.

An item's key reads its codes as digits, so the items below a prefix are neighbours. What may follow a prefix is found
with `searchsorted`, vectorised over requests and beams, on any device. A filter (seen, denied, allowed) is a sorted list
of positions per request: how many of a range it holds is two searches, so nothing is rebuilt per request.

Shapes: n items, B requests, K beams, C codes of a level, m filtered positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from pauserec.errors import SemanticIdError
from pauserec.records import IntArray


@dataclass(frozen=True)
class Filter:
    """Positions per request, sorted, padded with n. int64 [B, m]. They are the only ones allowed, or the ones denied."""

    positions: Tensor
    allow: bool

    def count(self, bounds: Tensor) -> Tensor:
        """How many listed positions lie before each bound. bounds int64 [B, ...] -> int64 of the same shape."""
        flat = bounds.reshape(len(bounds), -1).contiguous()
        return torch.searchsorted(self.positions, flat).reshape(bounds.shape)


@dataclass(frozen=True)
class Catalogue:
    """An immutable table of legal code sequences.

    keys: int64 [n], ascending. items: int64 [n], the item number at each position. sizes: codes per level.
    """

    keys: Tensor
    items: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def build(cls, codes: IntArray, sizes: Sequence[int], items: IntArray | None = None) -> Self:
        """From codes int64 [n, L] (unique rows) of the items numbered `items` (0..n-1 if None).

        Raises SemanticIdError when two items share a code sequence, a code is out of bounds, or keys exceed 63 bits.
        """
        numbers = np.arange(len(codes)) if items is None else np.asarray(items)
        if np.prod([float(size) for size in sizes]) >= 2.0**63:
            raise SemanticIdError(
                f"codebooks {tuple(sizes)} need keys over 63 bits: use fewer levels or smaller codebooks"
            )
        if len(codes) and (codes.min() < 0 or (codes >= np.asarray(sizes)).any()):
            raise SemanticIdError(f"a code lies outside its codebook {tuple(sizes)}: the semantic IDs are damaged")
        keys = np.zeros(len(codes), dtype=np.int64)
        for level, size in enumerate(sizes):
            keys = keys * size + codes[:, level]
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        if len(keys) > 1 and (keys[1:] == keys[:-1]).any():
            raise SemanticIdError("two items share a semantic ID: build the IDs with a collision rule")
        return cls(torch.from_numpy(keys), torch.from_numpy(numbers[order].astype(np.int64)), tuple(sizes))

    def __len__(self) -> int:
        return len(self.keys)

    def with_items(self, codes: IntArray, items: IntArray) -> Self:
        """A new table that also holds these items. Raises as `build`."""
        added = self.build(codes, self.sizes, items)
        keys, order = torch.sort(torch.cat([self.keys, added.keys]), stable=True)
        if len(keys) > 1 and bool((keys[1:] == keys[:-1]).any()):
            raise SemanticIdError("a new item's semantic ID is taken: extend the IDs instead of writing them by hand")
        return replace(self, keys=keys, items=torch.cat([self.items, added.items])[order])

    def without_items(self, items: IntArray) -> Self:
        """A new table that lacks these items."""
        keep = ~torch.isin(self.items, torch.from_numpy(np.asarray(items, dtype=np.int64)))
        return replace(self, keys=self.keys[keep], items=self.items[keep])

    def to(self, device: torch.device) -> Self:
        """The same table on a device."""
        return replace(self, keys=self.keys.to(device), items=self.items.to(device))

    def filter(self, items: Sequence[IntArray], *, allow: bool = False) -> Filter:
        """A filter from item numbers per request (B of them). Numbers that the table lacks have no effect."""
        by_item, order = torch.sort(self.items)
        rows = []
        for numbers in items:
            wanted = torch.from_numpy(np.unique(np.asarray(numbers, dtype=np.int64))).to(self.items.device)
            if not len(by_item):
                rows.append(wanted[:0])
                continue
            found = torch.searchsorted(by_item, wanted).clamp(max=len(by_item) - 1)
            rows.append(torch.sort(order[found[by_item[found] == wanted]]).values)
        width = max((len(row) for row in rows), default=0)
        positions = torch.full((len(rows), width), len(self), dtype=torch.int64, device=self.keys.device)
        for number, row in enumerate(rows):
            positions[number, : len(row)] = row
        return Filter(positions, allow)

    def stride(self, level: int) -> int:
        """Keys below one code of a level."""
        return int(np.prod([1, *self.sizes[level + 1 :]], dtype=np.int64))

    def bounds(self, prefix_BK: Tensor, level: int) -> Tensor:
        """Where each child of a prefix begins. prefix: key of a prefix, lower digits zero -> int64 [B, K, C + 1]."""
        steps = torch.arange(self.sizes[level] + 1, device=prefix_BK.device) * self.stride(level)
        return torch.searchsorted(self.keys, prefix_BK[..., None] + steps)

    def legal(self, bounds: Tensor, only: Filter | None) -> Tensor:
        """Whether some allowed item lies below each child. bounds [B, K, C + 1] -> bool [B, K, C]."""
        present = bounds.diff(dim=-1)
        if only is None:
            return present > 0
        listed = only.count(bounds).diff(dim=-1)
        return (listed if only.allow else present - listed) > 0
