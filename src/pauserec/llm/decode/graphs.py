"""Requests on a GPU as CUDA graphs: a request's thousand small kernels are launched as one.

Requests are rounded up to a few shapes, each of which is captured when it is first seen. The answers are those of
llm/decode/decoder.py: the padding is never seen, and the rows added to fill a batch are thrown away.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any, Protocol

import torch
from torch import Tensor

from pauserec.decoding.beam import Beams, Normalise
from pauserec.decoding.catalogue import Catalogue, Filter
from pauserec.llm.decode.fixed import FixedRequest, Shape
from pauserec.llm.decode.prefill import keep_beginnings
from pauserec.llm.decode.prefixes import PrefixStore
from pauserec.llm.model import LanguageModel
from pauserec.llm.prompts import MarkedPrompt

TOKENS, NEW_TOKENS = 64, 32
"""Prompts are padded to a multiple of so many tokens, and what is new behind kept beginnings to one of so many."""
WORTH = 0.25
"""Kept beginnings are used where they are this share of the tokens: masked attention is slower than that of whole prompts."""
WARM_UPS = 3
"""Runs before a capture, in which libraries choose kernels and take their workspace."""

Replay = Callable[[], Beams]


class Capture(Protocol):
    """Turns a request into something that repeats it."""

    def __call__(self, request: FixedRequest) -> Replay:
        """The function gives results that the next call may overwrite."""
        ...


class CudaCapture:
    """CUDA graphs that share one pool of memory: they are replayed one at a time, and their results copied at once."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, request: FixedRequest) -> Replay:
        """A graph of the request. After a failure the next ones begin with a pool of their own."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                request.run()
        torch.cuda.current_stream().wait_stream(side)
        graph, pool, self._pool = torch.cuda.CUDAGraph(), self._pool, None
        kind = {"pool": pool, "capture_error_mode": "thread_local"}  # other threads may allocate meanwhile
        # a capture that fails leaves its own stream the current one
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, **kind):
            found = request.run()
        self._pool = pool

        def replay() -> Beams:
            graph.replay()
            return found

        return replay


class Graphs:
    """Captured requests, by shape; of more than `keep`, the least recently used is let go.

    most_tokens: larger batches are left to the ordinary path, whose kernels are long enough to hide their launches.
    kept_tokens: room for prompts in all shapes kept together (each holds the keys and values of its own); the newest stays.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        most_tokens: int = 8192,
        kept_tokens: int = 65536,
        keep: int = 32,
        capture: Capture | None = None,
    ) -> None:
        self._model, self._most, self._keep, self._capture = model, most_tokens, keep, capture or CudaCapture()
        self._kept_tokens = kept_tokens
        self._turn = Lock()
        """A graph's buffers serve one request at a time."""
        self._kept: OrderedDict[tuple[int, Shape], tuple[FixedRequest, Replay]] = OrderedDict()
        self._dense: set[tuple[int, int]] = set()
        """Catalogues (by id) and beams for which looking ahead was too wide once."""
        self.failed: dict[Shape, str] = {}
        """Shapes that could not be captured, and why."""

    def fit(self, prompts: Sequence[MarkedPrompt]) -> bool:
        """Whether these prompts are few and short enough."""
        return _batch(len(prompts)) * _room(prompts) <= self._most

    def decode(
        self,
        catalogue: Catalogue,
        prompts: Sequence[MarkedPrompt],
        beams: int,
        *,
        normalise: Normalise,
        only: Filter | None,
        store: PrefixStore | None = None,
    ) -> Beams | None:
        """See llm.decoder.decode; None where the shape cannot be captured: then the ordinary path has to answer."""
        names = [prompt.names() for prompt in prompts] if store is not None else []
        work = _Work(prompts, only, _beginnings(store, prompts, names))
        shape = Shape(
            batch=_batch(len(prompts)),
            room=_room(prompts) if work.prefixes is None else _padded(max(work.begin) + work.new, TOKENS),
            new=None if work.prefixes is None else work.new,
            beams=beams,
            denied=_power(0 if only is None else only.denied.shape[1]),
            allowed=None if only is None or only.allowed is None else _power(only.allowed.shape[1]),
            normalise=normalise,
            ahead=len(catalogue.sizes) > 2 and (id(catalogue), beams) not in self._dense,
        )
        with self._turn:
            found = self._run(catalogue, work, shape)
            if found is not None and found.overflow is not None and bool(found.overflow):
                self._dense.add((id(catalogue), beams))  # it would happen again
                shape = replace(shape, ahead=False)
                found = self._run(catalogue, work, shape)
            if found is not None and store is not None:
                keep_beginnings(store, self._kept[id(catalogue), shape][0].cache, prompts, names, work.begin)
            return found and Beams(found.items[: len(prompts)].clone(), found.scores[: len(prompts)].clone())

    def _run(self, catalogue: Catalogue, work: "_Work", shape: Shape) -> Beams | None:
        if shape in self.failed:
            return None
        key = (id(catalogue), shape)  # the request holds the catalogue, so its id stays its own
        if key not in self._kept:
            self._make_room(shape)
            try:
                request = FixedRequest(self._model, catalogue, shape)
                request.fill(work.tokens, work.only, work.prefixes)
                self._kept[key] = (request, self._capture(request))
            except RuntimeError as error:  # of CUDA: no memory, or an operation that no graph can hold
                self.failed[shape] = str(error)
                warnings.warn(f"no CUDA graph for {shape}, such requests run without: {error}", stacklevel=2)
                return None
        self._kept.move_to_end(key)
        request, replay = self._kept[key]
        request.fill(work.tokens, work.only, work.prefixes)
        return replay()

    def _make_room(self, new: Shape) -> None:
        """Let go of what was used longest ago until this shape fits."""
        while self._kept and (
            len(self._kept) >= self._keep
            or sum(shape.batch * shape.room for _, shape in self._kept) + new.batch * new.room > self._kept_tokens
        ):
            self._kept.popitem(last=False)

    def __len__(self) -> int:
        return len(self._kept)


class _Work:
    """What a request of some shape does. prefixes: kept beginnings of all its prompts, None where they run whole."""

    def __init__(self, prompts: Sequence[MarkedPrompt], only: Filter | None, prefixes: Sequence[Tensor] | None) -> None:
        self.tokens, self.only, self.prefixes = [prompt.tokens for prompt in prompts], only, prefixes
        self.begin = [0] * len(prompts) if prefixes is None else [prefix.shape[2] for prefix in prefixes]
        longest = max(len(tokens) - start for tokens, start in zip(self.tokens, self.begin, strict=True))
        self.new = _padded(longest, NEW_TOKENS)
        """Places for what is not kept."""


def _beginnings(
    store: PrefixStore | None, prompts: Sequence[MarkedPrompt], names: Sequence[Sequence[bytes]]
) -> list[Tensor] | None:
    """What is kept of each prompt; None where something of one is not, or too little of all."""
    if store is None:
        return None
    found = [store.find(row) for row in names]
    kept = [prefix for prefix in found if prefix is not None]
    if len(kept) < len(prompts):
        return None
    share = sum(prefix.shape[2] for prefix in kept) / sum(len(prompt.tokens) for prompt in prompts)
    return kept if share >= WORTH else None


def _batch(count: int) -> int:
    """Rows of the shape for so many requests: a power of two up to 8, then a multiple of 8."""
    return 1 << (count - 1).bit_length() if count <= 8 else -(-count // 8) * 8


def _room(prompts: Sequence[MarkedPrompt]) -> int:
    """Tokens of the shape for these prompts."""
    return _padded(max(len(prompt.tokens) for prompt in prompts), TOKENS)


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _power(count: int) -> int:
    """Places of the shape for lists of this length: a power of two, at least 16."""
    return max(16, 1 << (count - 1).bit_length()) if count else 16
