"""The words around the IDs: every prompt the models see, as token ids.

Prompt text exists only here, in PromptConfig and in the recipes.

A next-item prompt is ChatML: system instruction; the user's turn with the history, one entry per item; the assistant's
turn opened with a think block that is empty (next-item SFT) or holds k pauses (implicit reasoning), then the target's
SID (paper, Appendix F.1; the words are ours). With template = "ids" the chat is gone: `<|sid_begin|>`, the history,
the pauses, the target's codes. Item text is data: it is encoded apart from all control tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from typing import Any

import numpy as np

from pauserec.config import EntryWords, Format, PromptConfig
from pauserec.errors import RecipeError
from pauserec.llm.vocabulary import PlainText, Vocabulary
from pauserec.records import IntArray, Item
from pauserec.semantic_ids.codes import SemanticIds

LONGEST_TEXT = 512
"""Tokens of an item's text in running text; in prompts `prompt.text_tokens` cuts it."""
CONTROL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")


@dataclass(frozen=True)
class MarkedPrompt:
    """A prompt's token ids, and the lengths at which its beginning may be kept: the template's first, the trunk's last.

    All are below the prompt's own length: its last token is always run, for the next one is predicted from that.
    """

    tokens: list[int]
    marks: tuple[int, ...]

    def names(self) -> list[bytes]:
        """A hash of the tokens up to each mark."""
        running, names, start = blake2b(digest_size=16), [], 0
        for mark in self.marks:
            running.update(np.asarray(self.tokens[start:mark], dtype=np.int64).tobytes())
            names.append(running.copy().digest())
            start = mark
        return names


class Prompts:
    """Token sequences for one grown tokenizer, one catalogue and one wording."""

    def __init__(
        self,
        tokenizer: Any,
        vocabulary: Vocabulary,
        ids: SemanticIds,
        items: Sequence[Item],
        config: PromptConfig,
        form: Format,
    ) -> None:
        self.vocabulary = vocabulary
        self.form = form
        self._plain = PlainText(tokenizer)
        known = tokenizer.get_vocab()
        self._control = {text: [known[text]] if text in known else self._words(text) for text in CONTROL}
        self.codes: list[list[int]] = vocabulary.item_tokens(ids).tolist()
        """Code tokens of each item."""
        self._bare = config.template == "ids"
        if self._bare and form.rationale:
            raise RecipeError('prompt.template = "ids" has no think block for a rationale: set it to "chat"')
        self._brackets = config.brackets == "all" and not self._bare
        self._step = min(config.history_step, form.history_length)
        entry = config.entry
        texts = self._plain.encode([item_text(item, form.fields, entry) for item in items]) if form.fields else []
        end = self._words(entry.separator if form.fields else entry.id_separator)
        self.entries = [
            self.sid(number) + (texts[number][: config.text_tokens] if texts else []) + end
            for number in range(len(items))
        ]
        """What each item looks like in the user's turn."""
        self.opening = [vocabulary.begin] if self._bare else self._beginning(config)
        self._after = [*self._words("\n"), vocabulary.begin]
        self.suffix = self._suffix(form.pauses)

    @property
    def longest(self) -> int:
        """No prompt with its answer has more tokens than this."""
        entry = max(map(len, self.entries), default=0)
        codes = max(map(len, self.codes), default=0)
        return len(self.opening) + self.form.history_length * entry + len(self.suffix) + self.form.rationale + codes

    def sid(self, item: int) -> list[int]:
        """An item's ID as it stands inside a history."""
        return [self.vocabulary.begin, *self.codes[item], self.vocabulary.end] if self._brackets else self.codes[item]

    def answer(self, item: int) -> list[int]:
        """What follows the suffix: the codes, the end of the ID and of the turn."""
        return [*self.codes[item], self.vocabulary.end, *([] if self._bare else self._control["<|im_end|>"])]

    def trunk(self, items: IntArray) -> list[int]:
        """The prompt up to and including the last history entry."""
        tokens = list(self.opening)
        for item in items:
            tokens += self.entries[item]
        return tokens

    def start(self, length: int) -> int:
        """Place in a history of `length` items where its window begins: the last `history_length`, or a few less.

        The window moves in blocks of `history_step` items, so that prompts of one user go on agreeing in their beginning.
        """
        over = length - self.form.history_length
        return -(-over // self._step) * self._step if over > 0 else 0

    def prompt(self, history: IntArray) -> list[int]:
        """The whole prompt for a history: up to and including `<|sid_begin|>`, or to where a rationale begins."""
        return self.trunk(history[self.start(len(history)) :]) + self.suffix

    def marked(self, history: IntArray) -> MarkedPrompt:
        """The prompt, marked after the template and after each history entry, where something follows."""
        tokens = self.prompt(history)
        shown = history[self.start(len(history)) :]
        lengths = [len(self.opening), *(len(self.entries[item]) for item in shown)]
        return MarkedPrompt(tokens, tuple(mark for mark in accumulate(lengths) if mark < len(tokens)))

    def is_code(self, token: int) -> bool:
        """Whether a token is one of the SID codes."""
        return self.vocabulary.code_offsets[0] <= token < self.vocabulary.pause

    def _words(self, text: str) -> list[int]:
        return self._plain.encode([text])[0]

    def _open(self, role: str) -> list[int]:
        return self._control["<|im_start|>"] + self._words(f"{role}\n")

    def _beginning(self, config: PromptConfig) -> list[int]:
        return self._turn("system", config.system) + self._open("user") + self._words(f"{config.history}\n")

    def _turn(self, role: str, text: str) -> list[int]:
        return self._open(role) + self._words(text) + self._control["<|im_end|>"] + self._words("\n")

    @property
    def closing(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of a think block that the model fills: `</think>`, what stands between it and the first code, a turn's end."""
        return tuple(self._control["</think>"]), tuple(self._after), tuple(self._control["<|im_end|>"][:1])

    def _suffix(self, pauses: int) -> list[int]:
        if self._bare:
            return [self.vocabulary.pause] * pauses
        end = self._control["<|im_end|>"] + self._words("\n")
        think = self._control["<think>"] + [self.vocabulary.pause] * pauses
        closed = [] if self.form.rationale else self._control["</think>"] + self._after
        return end + self._open("assistant") + think + closed


def item_text(item: Item, fields: Sequence[str], words: EntryWords) -> str:
    """An item's text as it follows its SID: the fields it has, in their order."""
    shown = {
        "title": words.title.replace("{}", item.title) if item.title else "",
        "categories": words.categories.replace("{}", words.category_joint.join(item.categories))
        if item.categories
        else "",
    }
    return "".join(shown[field] for field in fields)


class Corpus:
    """Running text for continual pretraining: token sequences that name items by SID and by text.

    An item's text is cut at LONGEST_TEXT tokens, so that one hostile row cannot fill a batch, or a model's context.
    """

    def __init__(
        self,
        tokenizer: Any,
        vocabulary: Vocabulary,
        ids: SemanticIds,
        items: Sequence[Item],
        words: EntryWords | None = None,
    ) -> None:
        plain, words = PlainText(tokenizer), words or EntryWords()
        codes = vocabulary.item_tokens(ids).tolist()
        self._sid = [[vocabulary.begin, *item_codes, vocabulary.end] for item_codes in codes]
        # a space goes with the word that follows it, as in the text that the backbone has read
        texts = [item_text(item, ("title", "categories"), words) or " untitled" for item in items]
        self._text = [tokens[:LONGEST_TEXT] for tokens in plain.encode(texts)]
        self._chose, self._link, self._is, self._named, self._line = plain.encode(
            ["One person chose, in this order:\n", words.link, " is", "The item", words.separator]
        )
        self._stop = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []

    def item(self, number: int, *, text_first: bool) -> list[int]:
        """One item in one direction (paper, eq. 2): text then SID, or SID then text."""
        sid, text = self._sid[number], self._text[number]
        first, second = (text, sid) if text_first else (sid, text)
        return [*self._named, *first, *self._is, *second, *self._stop]

    def history(self, items: IntArray) -> list[int]:
        """A history as running text, each item with its SID, title and categories."""
        tokens = list(self._chose)
        for item in items:
            tokens += self._entry(item)
        return [*tokens, *self._stop]

    def stretches(self, items: IntArray, length: int, tokens: int) -> list[IntArray]:
        """A history in parts of at most `length` items and, as far as one item allows it, `tokens` tokens."""
        parts: list[list[int]] = [[]]
        room = 0
        for item in items.tolist():
            room -= len(self._entry(item))
            if not parts[-1] or len(parts[-1]) == length or room < 0:
                parts.append([])
                room = tokens - len(self._chose) - len(self._stop) - len(self._entry(item))
            parts[-1].append(item)
        return [np.array(part, dtype=np.int64) for part in parts[1:]]

    def _entry(self, item: int) -> list[int]:
        return [*self._sid[item], *self._link, *self._text[item], *self._line]
