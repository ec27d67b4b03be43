"""The catalogue without a tree: sorted integer keys, where a code prefix is a range and its children are found by search.

An item's key reads its codes as digits, so the items below a prefix are neighbours. What may follow a prefix is found
with `searchsorted`, vectorised over requests and beams, on any device. A filter (already seen, denied, allowed, one
category) is a sorted list of positions per request: how many of a range it holds is two searches, so nothing is rebuilt.

Shapes: n items, B requests, K beams, C codes of a level, m listed positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from pauserec.errors import SemanticIdError
from pauserec.records import IntArray, Offer


@dataclass(frozen=True)
class Filter:
    """What may be offered to each request, as positions of the catalogue: sorted, without repeats, padded with n.

    denied: int64 [B, m]. allowed: int64 [B, m'], already without the denied ones; it counts where limited, bool [B].
    None: no request has an allow-list.
    """

    denied: Tensor
    allowed: Tensor | None
    limited: Tensor

    def available(self, bounds: Tensor) -> Tensor:
        """How many items of each range may be offered. bounds: int64 [B, K, C + 1] -> int64 [B, K, C]."""
        count = bounds.diff(dim=-1)
        if self.denied.shape[1]:
            count = count - _count(self.denied, bounds)
        if self.allowed is not None:
            count = torch.where(self.limited[:, None, None], _count(self.allowed, bounds), count)
        return count


def _count(positions: Tensor, bounds: Tensor) -> Tensor:
    """How many positions lie in each range. positions [B, m], bounds [B, K, C + 1] -> [B, K, C]."""
    before = torch.searchsorted(positions, bounds.reshape(len(bounds), -1).contiguous())
    return before.reshape(bounds.shape).diff(dim=-1)


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
        if len(np.unique(items)) < len(items) or bool(
            torch.isin(torch.from_numpy(np.asarray(items)), self.items.cpu()).any()
        ):
            raise SemanticIdError("an item that is added stands in the catalogue: take it out with without_items first")
        added = self.build(codes, self.sizes, items).to(self.keys.device)
        keys, order = torch.sort(torch.cat([self.keys, added.keys]), stable=True)
        if len(keys) > 1 and bool((keys[1:] == keys[:-1]).any()):
            raise SemanticIdError("a new item's semantic ID is taken: extend the IDs instead of writing them by hand")
        return replace(self, keys=keys, items=torch.cat([self.items, added.items])[order])

    def without_items(self, items: IntArray) -> Self:
        """A new table that lacks these items."""
        keep = ~torch.isin(self.items, torch.from_numpy(np.asarray(items, dtype=np.int64)).to(self.items.device))
        return replace(self, keys=self.keys[keep], items=self.items[keep])

    def to(self, device: torch.device) -> Self:
        """The same table on a device."""
        return replace(self, keys=self.keys.to(device), items=self.items.to(device))

    def filter(
        self, *, deny: Sequence[IntArray] | None = None, allow: Sequence[IntArray | None] | None = None
    ) -> Filter:
        """A filter from item numbers per request (B of them, in either argument). An allow-list of None admits all.

        An item that is denied and allowed is denied. Numbers that the table lacks have no effect.
        """
        batch = len(deny if deny is not None else allow or ())
        nothing = np.empty(0, dtype=np.int64)
        denied = self._positions(deny if deny is not None else [nothing] * batch)
        lists = [None] * batch if allow is None else allow
        limited = torch.tensor([numbers is not None for numbers in lists], dtype=torch.bool, device=self.keys.device)
        if all(numbers is None for numbers in lists):
            return Filter(denied, None, limited)
        allowed = self._positions([nothing if numbers is None else numbers for numbers in lists])
        if denied.shape[1] and allowed.shape[1]:
            place = torch.searchsorted(denied, allowed).clamp(max=denied.shape[1] - 1)
            allowed = allowed.masked_fill(denied.gather(1, place) == allowed, len(self)).sort(dim=1).values
        return Filter(denied, allowed, limited)

    def offered(self, offer: Offer | None, rows: Sequence[int]) -> Filter | None:
        """The filter of some of an offer's histories; None where nothing limits them."""
        here = offer.rows(rows) if offer else Offer()
        return None if here.allow is None and here.deny is None else self.filter(deny=here.deny, allow=here.allow)

    @cached_property
    def _by_item(self) -> tuple[Tensor, Tensor]:
        """Item numbers in ascending order, and the position of each. int64 [n] twice."""
        found = torch.sort(self.items)
        return found.values, found.indices

    def _positions(self, lists: Sequence[IntArray]) -> Tensor:
        """Positions of listed items, sorted per list, without repeats, padded with n. int64 [B, longest list]."""
        device, n, lengths = self.keys.device, len(self), [len(numbers) for numbers in lists]
        width = max(lengths, default=0)
        if not width or not n:
            return torch.empty(len(lists), 0, dtype=torch.int64, device=device)
        numbers = torch.from_numpy(np.concatenate(lists).astype(np.int64, copy=False)).to(device)
        by_item, position = self._by_item
        place = torch.searchsorted(by_item, numbers).clamp(max=n - 1)
        listed = torch.full((len(lists), width), n, dtype=torch.int64, device=device)
        inside = torch.arange(width, device=device) < torch.tensor(lengths, device=device)[:, None]
        listed[inside] = torch.where(by_item[place] == numbers, position[place], n)
        listed = listed.sort(dim=1).values
        repeated = torch.nn.functional.pad(listed.diff(dim=1) == 0, (1, 0))
        return listed.masked_fill(repeated, n).sort(dim=1).values

    def stride(self, level: int) -> int:
        """Keys below one code of a level."""
        return int(np.prod([1, *self.sizes[level + 1 :]], dtype=np.int64))

    def bounds(self, prefix_BK: Tensor, level: int) -> Tensor:
        """Where each child of a prefix begins. prefix: key of a prefix, lower digits zero -> int64 [B, K, C + 1]."""
        steps = torch.arange(self.sizes[level] + 1, device=prefix_BK.device) * self.stride(level)
        return torch.searchsorted(self.keys, prefix_BK[..., None] + steps)

    def legal(self, bounds: Tensor, only: Filter | None) -> Tensor:
        """Whether some allowed item lies below each child. bounds [B, K, C + 1] -> bool [B, K, C]."""
        return (bounds.diff(dim=-1) if only is None else only.available(bounds)) > 0
