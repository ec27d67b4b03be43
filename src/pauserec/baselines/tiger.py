"""TIGER: an encoder reads the history's semantic IDs, a decoder writes the next one.

Paper: Rajput et al. 2023, "Recommender Systems with Generative Retrieval", Sections 3.2 and 4. As there: encoder and decoder of
four layers with six heads of width 64, 1,024 in the feed-forward layers, 128 between. Deviations: no token for the user, so
that anybody can be ranked; T5's relative biases are learned per distance in items, unbucketed, stand in the cross-attention
too, and an embedding tells the level within an ID; a softmax over the codes of the level; IDs are unique by the quantizer's
means. Decoding is the catalogue's constrained beam search (decoding/beam.py), whose beams share one encoding of the history.

With encoder = "causal", a further deviation, an item sees only itself and what came before it: one encoding then serves
every next-item target of a history, where the paper encodes each prefix anew.

Shapes: B histories, n items, L levels, T = nL codes, K beams (in training: targets), l codes of a prefix, D width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad, scaled_dot_product_attention

from pauserec.config import TigerConfig
from pauserec.decoding.beam import CodeScores


class Tiger(nn.Module):
    """sizes: codes per level. Codes of level j and value c have the row `offsets[j] + c`; row 0 is padding and start."""

    def __init__(self, sizes: tuple[int, ...], config: TigerConfig) -> None:
        super().__init__()
        self.sizes, self.causal = sizes, config.encoder == "causal"
        self.offsets: Tensor
        self.register_buffer("offsets", 1 + torch.tensor((0, *sizes[:-1])).cumsum(0), persistent=False)
        self.table = nn.Embedding(1 + sum(sizes), config.width)
        self.levels = nn.Embedding(len(sizes), config.width)
        self.written = nn.Embedding(len(sizes), config.width)
        for table in (self.table, self.levels, self.written):
            nn.init.normal_(table.weight, std=0.02)
        self.read_near, self.asked_near = (_Nearness(config) for _ in range(2))
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(_Layer(config, crossed=False) for _ in range(config.layers))
        self.decoder = nn.ModuleList(_Layer(config, crossed=True) for _ in range(config.layers))
        self.read_norm, self.written_norm = nn.RMSNorm(config.width), nn.RMSNorm(config.width)

    def forward(self, histories: Tensor, labels: Tensor) -> Tensor:
        """Summed loss. histories: rows of codes, int64 [B, n, L], 0 is padding (at the start); labels: codes [B, K, L].

        K is 1: what follows the whole history; or, with a causal encoder, n: what follows each item, IGNORE where nothing.
        """
        memory = self.encode(histories)
        if self.causal and labels.shape[1] > 1:
            memory = memory[0], self._asked(histories, apart=True)
        wanted = labels[..., 0] >= 0
        states = self.decode(memory, labels.clamp(min=0)[..., :-1])
        total = states.sum() * 0.0
        for level in range(len(self.sizes)):
            scores = self.scores(states[wanted][:, level], level)
            total = total + cross_entropy(scores, labels[wanted][:, level], reduction="sum")
        return total

    def encode(self, histories: Tensor) -> "Memory":
        """The history as the decoder's layers see it."""
        x_BTD = self.dropout((self.table(histories) + self.levels.weight).flatten(1, 2))
        item = torch.arange(x_BTD.shape[1], device=x_BTD.device) // len(self.sizes)
        seen = _real(histories) & (item <= item[:, None]) if self.causal else _real(histories)
        # a place sees itself, padding too: a row without keys has no softmax
        bias = self.read_near(item, item).masked_fill(~(seen | (item == item[:, None])), -torch.inf)
        for layer in self.encoder:
            x_BTD = layer(x_BTD, bias)
        x_BTD = self.read_norm(x_BTD)
        keys = [layer.crossing.keys(x_BTD) for layer in self.decoder]  # type: ignore[union-attr,operator]
        return keys, self._asked(histories)

    def _asked(self, histories: Tensor, *, apart: bool = False) -> Tensor:
        """Biases of the crossing for what follows the last item [B, H, 1, T]; apart: for what follows each [B, H, nL, T]."""
        item = torch.arange(histories[0].numel(), device=histories.device) // len(self.sizes)
        after = item if apart else item[-1:]
        seen = (_real(histories) & (item <= after[:, None])) | (item == after[:, None])
        bias: Tensor = self.asked_near(after, item)
        return bias.masked_fill(~seen, -torch.inf)

    def decode(self, memory: "Memory", prefix_BKl: Tensor) -> Tensor:
        """States [B, K, l + 1, D] after the start and after each code of a prefix."""
        batch, beams, length = prefix_BKl.shape
        rows = pad(prefix_BKl + self.offsets[:length], (1, 0)).flatten(0, 1)
        x = self.dropout(self.table(rows) + self.written.weight[: length + 1])
        mask = torch.ones(length + 1, length + 1, dtype=torch.bool, device=x.device).tril()
        for layer, keys in zip(self.decoder, memory[0], strict=True):
            x = layer(x, mask, keys, memory[1], batch)
        return self.written_norm(x).unflatten(0, (batch, beams))  # type: ignore[no-any-return]

    def scores(self, states: Tensor, level: int) -> Tensor:
        """Scores of the codes of a level, [..., C]."""
        start = int(self.offsets[level])
        return states @ self.table.weight[start : start + self.sizes[level]].T


Memory = tuple[list[tuple[Tensor, Tensor]], Tensor]
"""Keys and values [B, H, T, d] for each layer of the decoder, and the biases of asking them [B, H, 1 or K(l + 1), T]."""


def _real(histories: Tensor) -> Tensor:
    """Which places hold a code [B, 1, 1, T]."""
    return (histories > 0).flatten(1)[:, None, None]


class _Nearness(nn.Module):
    """Biases of attention by distance in items, one for each head, that start at ALiBi's slopes (Press et al. 2022)."""

    def __init__(self, config: TigerConfig) -> None:
        super().__init__()
        self.most = config.history_length - 1
        self.table = nn.Embedding(2 * self.most + 1, config.heads)
        distance = torch.arange(2 * self.most + 1) - self.most
        with torch.no_grad():
            self.table.weight.copy_(-distance.abs()[:, None] * 0.5 ** torch.arange(config.heads))

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        """Numbers of items [Q] and [T] -> [H, Q, T]."""
        distance = (asking[:, None] - asked).clamp(-self.most, self.most)
        bias: Tensor = self.table(distance + self.most)
        return bias.permute(2, 0, 1)


class _Attention(nn.Module):
    def __init__(self, config: TigerConfig) -> None:
        super().__init__()
        inner, self.heads, self.rate = config.heads * config.head_width, config.heads, config.dropout
        self.query = nn.Linear(config.width, inner, bias=False)
        self.into = nn.Linear(config.width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, config.width, bias=False)

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        rate = self.rate if self.training else 0.0
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mask = mask if mask.dtype == torch.bool else mask.to(q.dtype)
        seen = scaled_dot_product_attention(q, *keys, attn_mask=mask, dropout_p=rate)
        return self.out(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.into(x).chunk(2, dim=-1))
        return k, v


class _Layer(nn.Module):
    def __init__(self, config: TigerConfig, *, crossed: bool) -> None:
        super().__init__()
        width = config.width
        self.attention, self.attention_norm = _Attention(config), nn.RMSNorm(width)
        if crossed:
            self.crossing, self.crossing_norm = _Attention(config), nn.RMSNorm(width)
        drop = nn.Dropout(config.dropout)
        self.feed = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, config.feed_forward), nn.ReLU(), drop)
        self.feed.append(nn.Linear(config.feed_forward, width))
        self.dropout = drop

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        memory: tuple[Tensor, Tensor] | None = None,
        real: Tensor | None = None,
        batch: int = 0,
    ) -> Tensor:
        """x: [B, T, D], or [B K, l + 1, D] where a memory of `batch` histories is given, whose beams ask it together."""
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, self.attention.keys(normed), mask))
        if memory is not None and real is not None:
            asked = self.crossing_norm(x).reshape(batch, -1, x.shape[-1])
            x = x + self.dropout(self.crossing(asked, memory, real)).view_as(x)
        return x + self.dropout(self.feed(x))  # type: ignore[no-any-return]


class TigerScorer:
    """Next-code scores of encoded histories, for the beam search."""

    def __init__(self, model: Tiger, memory: Memory) -> None:
        self._model, self._memory = model, memory
        batch = len(memory[1])
        self._prefix_BKl = torch.zeros(batch, 1, 0, dtype=torch.int64, device=memory[1].device)

    def start(self) -> CodeScores:
        """See NextCode."""
        return self._scores()

    def advance(self, parents_BK: Tensor, codes_BK: Tensor) -> CodeScores:
        """See NextCode."""
        kept = self._prefix_BKl.gather(1, parents_BK[..., None].expand(-1, -1, self._prefix_BKl.shape[-1]))
        self._prefix_BKl = torch.cat([kept, codes_BK[..., None]], dim=-1)
        return self._scores()

    def _scores(self) -> CodeScores:
        states = self._model.decode(self._memory, self._prefix_BKl)[:, :, -1]
        return CodeScores(self._model.scores(states, self._prefix_BKl.shape[-1]).float())
