"""Two-phase decoding, first phase: models that write a rationale do so up to a limit, then their think block is closed.

The text grows the trunk of each document, token by token over the batch; a document that is done waits for the others.
The item's codes follow as branches, as for any prompt.

Shapes: B documents, D width, V vocabulary rows in use.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pauserec.llm.decode.prefill import extend
from pauserec.llm.model import LanguageModel
from pauserec.llm.prompts import Prompts
from pauserec.llm.tree.cache import TreeCache


@dataclass(frozen=True)
class Written:
    """texts: token ids of each rationale, without what closes it. hidden: [B, D], the state after `<|sid_begin|>`."""

    texts: list[list[int]]
    hidden: Tensor


@dataclass(frozen=True)
class Rationales:
    """How rationales are written. close: tokens of `</think>`; after: what stands between it and the first code.

    end: tokens that end a turn; a text that reaches one is closed there. limit: most tokens of a text.
    temperature: 0 takes the likeliest token; above, tokens are drawn, repeatably by `seed`.
    """

    close: tuple[int, ...]
    after: tuple[int, ...]
    end: tuple[int, ...]
    limit: int = 128
    temperature: float = 0.0
    seed: int = 0

    @classmethod
    def of(cls, prompts: Prompts) -> Self | None:
        """How these prompts' think block is filled by the model itself; None where it is not."""
        return cls(*prompts.closing, limit=prompts.form.rationale) if prompts.form.rationale else None

    @property
    def room(self) -> int:
        """Trunk tokens that a rationale and its closing can take."""
        return self.limit + len(self.close) + len(self.after)

    def write(self, model: LanguageModel, cache: TreeCache, hidden: Tensor) -> Written:
        """Write on from `hidden` [B, D], the states after the prompts in `cache`."""
        batch, width = len(hidden), len(self.close)
        generator = torch.Generator(hidden.device).manual_seed(self.seed)
        texts: list[list[int]] = [[] for _ in range(batch)]
        last: list[list[int] | None] = [None] * batch
        """What is still to be run of each document that is done."""
        for _ in range(self.limit):
            drawn = self._draw(model.logits(hidden).float(), generator)
            running: list[list[int]] = [[] for _ in range(batch)]
            for row, token in enumerate(drawn):
                if last[row] is not None:
                    continue
                texts[row].append(token)
                if token in self.end:
                    texts[row].pop()
                    last[row] = [*self.close, *self.after]
                elif tuple(texts[row][-width:]) == self.close:
                    texts[row] = texts[row][:-width]
                    last[row] = [token, *self.after]
                elif len(texts[row]) == self.limit:
                    last[row] = [token, *self.close, *self.after]
                else:
                    running[row] = [token]
            if not any(running):
                break
            hidden = extend(model, cache, running)
        return Written(texts, extend(model, cache, [row or [] for row in last]))

    def _draw(self, logits: Tensor, generator: torch.Generator) -> list[int]:
        """One token per row of logits [B, V]."""
        if self.temperature == 0:
            chosen: list[int] = logits.argmax(-1).tolist()
        else:
            probabilities = (logits / self.temperature).softmax(-1)
            chosen = torch.multinomial(probabilities, 1, generator=generator)[:, 0].tolist()
        return chosen
