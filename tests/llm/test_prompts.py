"""Prompts hold what the method says, and item text never becomes a control token."""

import random
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from pauserec.config import EntryWords, Format, PromptConfig, Recipe
from pauserec.errors import RecipeError
from pauserec.llm.prompts import Corpus, Prompts
from pauserec.llm.vocabulary import PlainText, Vocabulary, grow_tokenizer
from pauserec.records import Item
from pauserec.semantic_ids.codes import SemanticIds

IDS = SemanticIds(np.array([[a, b] for a in range(4) for b in range(4)]), (4, 4))
HOSTILE = ["<|im_end|>", "<|im_start|>", "<think>", "</think>", "<pause>", "<s_a_1>", "<s_b_3>", "<|sid_begin|>"]
HOSTILE += [
    "<|sid_end|>",
    "<|endoftext|>",
    "\u202e",
    "é",
    "\u0301",
    "日本",
    "😀",
    "\ufeff",
    "\n",
    " ",
    "Ġ",
    "a",
    "<",
    ">",
    "|",
]


@pytest.fixture(scope="module")
def grown(tiny_model: Path) -> tuple[object, Vocabulary]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    return tokenizer, grow_tokenizer(tokenizer, IDS)


def prompts(grown: tuple[object, Vocabulary], items: list[Item], form: Format) -> Prompts:
    tokenizer, vocabulary = grown
    return Prompts(tokenizer, vocabulary, IDS, items, PromptConfig(), form)


def test_10_000_hostile_titles_give_no_control_token(grown: tuple[object, Vocabulary]) -> None:
    tokenizer, vocabulary = grown
    rng = random.Random(0)
    titles = ["".join(rng.choices(HOSTILE, k=rng.randint(1, 12))) for _ in range(10_000)]
    control = set(tokenizer.added_tokens_decoder) | set(vocabulary.sid_rows) | {vocabulary.pause}
    assert control & set(tokenizer("<pause><s_a_1>")["input_ids"]), "the tokenizer itself would fall for it"
    for ids in PlainText(tokenizer).encode(titles):
        assert not control & set(ids)


def test_hostile_titles_change_no_control_token_of_a_prompt(grown: tuple[object, Vocabulary]) -> None:
    control = set(grown[0].added_tokens_decoder)  # type: ignore[attr-defined]
    form, history = Format(("title", "categories"), 5), np.arange(16)

    def skeleton(title: str) -> list[int]:
        made = prompts(grown, [Item(str(n), title, (title,)) for n in range(16)], form).prompt(history)
        return [token for token in made if token in control]

    assert skeleton("".join(HOSTILE)) == skeleton("plain")


def test_corpus_text_is_data_too(grown: tuple[object, Vocabulary]) -> None:
    tokenizer, vocabulary = grown
    corpora = [
        Corpus(tokenizer, vocabulary, IDS, [Item(str(n), t) for n in range(16)]) for t in ("".join(HOSTILE), "x")
    ]
    control = set(tokenizer.added_tokens_decoder)
    found = [[t for t in corpus.history(np.arange(16)) if t in control] for corpus in corpora]
    assert found[0] == found[1]


@pytest.mark.parametrize("pauses", [0, 1, 5, 10])
def test_the_think_block_holds_k_pauses_and_the_prompt_ends_with_the_ids_begin(
    grown: tuple[object, Vocabulary], pauses: int
) -> None:
    made = prompts(grown, [Item(str(n), "red book") for n in range(16)], Format(("title",), pauses))
    prompt = made.prompt(np.array([1, 2]))
    assert prompt.count(made.vocabulary.pause) == pauses
    assert prompt[-1] == made.vocabulary.begin
    text = grown[0].decode(prompt)  # type: ignore[attr-defined]
    assert f"<think>{'<pause>' * pauses}</think>" in text.replace(" ", "")


@pytest.mark.parametrize("pauses", [0, 3])
def test_a_prompt_of_ids_has_no_word(grown: tuple[object, Vocabulary], pauses: int) -> None:
    tokenizer, vocabulary = grown
    items, form = [Item(str(n), "red book") for n in range(16)], Format(pauses=pauses)
    made = Prompts(tokenizer, vocabulary, IDS, items, PromptConfig(template="ids"), form)
    codes = [code for item in (4, 7) for code in made.codes[item]]
    assert made.prompt(np.array([4, 7])) == [vocabulary.begin, *codes, *[vocabulary.pause] * pauses]
    assert made.answer(2) == [*made.codes[2], vocabulary.end]


@pytest.mark.parametrize("words", [{"system": "Recommend."}, {"history": "Bought:"}, {"brackets": "target"}])
def test_words_for_a_prompt_of_ids_are_refused(words: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r'is not used with template = "ids"'):
        PromptConfig.model_validate({"template": "ids"} | words)


def test_a_prompt_of_ids_has_no_room_for_a_rationale(grown: tuple[object, Vocabulary]) -> None:
    tokenizer, vocabulary = grown
    with pytest.raises(RecipeError, match=r'template = "ids" .* "chat"'):
        Prompts(tokenizer, vocabulary, IDS, [Item("a")], PromptConfig(template="ids"), Format(rationale=8))


def test_a_history_is_cut_to_its_most_recent_items(grown: tuple[object, Vocabulary]) -> None:
    made = prompts(grown, [Item(str(n)) for n in range(16)], Format(history_length=3))
    assert made.prompt(np.arange(10)) == made.prompt(np.array([7, 8, 9]))


def test_a_window_that_moves_in_blocks_keeps_the_prompts_beginning(grown: tuple[object, Vocabulary]) -> None:
    tokenizer, vocabulary = grown
    items = [Item(str(number)) for number in range(16)]
    made = Prompts(tokenizer, vocabulary, IDS, items, PromptConfig(history_step=3), Format(history_length=8))
    assert [made.start(n) for n in (7, 8, 9, 11, 12, 14, 15)] == [0, 0, 3, 3, 6, 6, 9]
    before, after = made.prompt(np.arange(10)), made.prompt(np.arange(11))
    kept = len(before) - len(made.suffix)
    assert after[:kept] == before[:kept]
    each = Prompts(tokenizer, vocabulary, IDS, items, PromptConfig(), Format(history_length=8))
    assert [each.start(n) for n in (7, 8, 9, 12)] == [0, 0, 1, 4], "one by one, as long as nobody asks for blocks"


def test_marks_stand_after_the_template_and_each_entry(grown: tuple[object, Vocabulary]) -> None:
    made = prompts(grown, [Item(str(number), "red bird") for number in range(16)], Format(("title",), 2))
    marked = made.marked(np.array([4, 7]))
    assert marked.tokens == made.prompt(np.array([4, 7]))
    assert marked.tokens[: marked.marks[0]] == made.opening
    assert marked.tokens[: marked.marks[1]] == made.trunk(np.array([4]))
    assert marked.tokens[: marked.marks[2]] == made.trunk(np.array([4, 7]))


def test_an_entry_may_have_the_form_of_the_papers_appendix(grown: tuple[object, Vocabulary]) -> None:
    """`SID, title "...", categories "A > B";` and, without text, `SID;`: as the recipe that stands for the paper asks."""
    tokenizer, vocabulary = grown
    config = Recipe.load("pauserec").prompt
    items = [Item(f"i{n}", f"red film {n}", ("blue", "green")) for n in range(16)]

    def entry(fields: tuple[str, ...]) -> str:
        made = Prompts(tokenizer, vocabulary, IDS, items, config, Format(fields))
        return tokenizer.decode(made.entries[2], skip_special_tokens=False)  # type: ignore[attr-defined]

    sid = IDS.text(2)
    assert entry(("title", "categories")) == f'{sid}, title "red film 2", categories "blue > green";'
    assert entry(("categories", "title")) == f'{sid}, categories "blue > green", title "red film 2";'
    assert entry(()) == f"{sid};"
    corpus = Corpus(tokenizer, vocabulary, IDS, items, config.entry)
    text = tokenizer.decode(corpus.history(np.array([1, 2])), skip_special_tokens=False)  # type: ignore[attr-defined]
    assert f'{sid}, title "red film 2", categories "blue > green";' in text


def test_a_space_in_running_text_goes_with_the_word_after_it(grown: tuple[object, Vocabulary]) -> None:
    tokenizer, vocabulary = grown
    corpus = Corpus(tokenizer, vocabulary, IDS, [Item(f"i{n}", "red film") for n in range(16)])
    named, text, link = PlainText(tokenizer).encode(["The item", ' "red film"', " is"])
    sid = [vocabulary.begin, *vocabulary.item_tokens(IDS)[3].tolist(), vocabulary.end]
    stop = [tokenizer.eos_token_id]  # type: ignore[attr-defined]
    assert corpus.item(3, text_first=True) == [*named, *text, *link, *sid, *stop]
    assert corpus.item(3, text_first=False) == [*named, *sid, *link, *text, *stop]


@pytest.mark.parametrize("words", ["no place", "{} and {}", "{title}"])
def test_words_without_one_place_for_the_value_are_refused(words: str) -> None:
    with pytest.raises(ValidationError):
        EntryWords(title=words)
