import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from pauserec.evaluation.metrics import METRICS
from pauserec.report.page import (
    EmbeddingRows,
    Example,
    ReportContent,
    ShownItem,
    duration,
    fact_tables,
    number,
    write_report,
)
from pauserec.runs.logs import read_log

HOSTILE = (
    '<script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)> $\\frac{1}{2}$ \ud800 \x00 {{ 7*7 }}'
)
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def metrics(value: float) -> dict[str, Any]:
    interval = [value - 0.01, value + 0.01]
    return {**dict.fromkeys(METRICS, value), "users": 943, "ci95": dict.fromkeys(METRICS, interval)}


def content(text: str) -> ReportContent:
    generator = np.random.default_rng(0)
    rows = [generator.normal(size=(size, 8)).astype(np.float32) for size in (3000, 64, 1)]
    items = [ShownItem(f"{n}{text}", f"title {n} {text}") for n in range(12)]
    return ReportContent(
        name=f"quickstart {text}",
        seen="drop",
        final_fit="train",
        data={"users": 943, "items": 1349, "interactions": 99287, "source": text, "fingerprint": f"4f1c{text}"},
        models={
            "popularity": {"test": metrics(0.04), "validation": metrics(0.05), "decoding": {"ms_per_user": 0.06}},
            f"sft {text}": {"test": metrics(0.1), "decoding": {"ms_per_user": 40.0, "beams": 20, "invalid": 0}},
        },
        costs={"popularity": (0.0, 0.06), f"sft {text}": (185.2, 40.0)},
        stages={f"sft {text}": {"seconds": 185.2, "tokens": 1_212_345, "trainable_parameters": 45_123_456}},
        log=[
            {"step": f"sft {text}", "loss": 3.0, "global_step": 1},
            {"step": f"sft {text}", "loss": None, "global_step": 2},
            {"step": f"sft {text}", "loss": 2.0, "global_step": 3},
            {"step": f"sft {text}", "validation_ndcg@10": 0.07, "global_step": 3},
            {"step": "dataset", "event": "done", "seconds": 1.0},
            {"event": "unreadable"},
        ],
        quality={"collision_rate": 0.0, "codes_used": [256, 250, 256], f"key {text}": text},
        data_report={"rows_read": 100_000, "quarantined": {f"class {text}": 3}, "ties": {"rule": text}},
        embeddings=[EmbeddingRows("base", *rows[:2], rows[2][:0]), EmbeddingRows(f"sft {text}", *rows)],
        examples=[Example(f"u{text}", items[:4], items[5], {f"sft {text}": items[4:8]})],
        facts={"backbone": text},
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(tmp_path_factory.mktemp("plain"), content("plain")).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(tmp_path_factory.mktemp("hostile"), content(HOSTILE)).read_text(encoding="utf-8")


def test_the_page_shows_every_section(plain: str) -> None:
    text = " ".join(" ".join(Page(plain).texts).split())
    for part in ("Results", "Examples", "Training cost", "Training curves", "Embedding rows", "Semantic IDs", "Data"):
        assert part in text
    for part in ("99,287", "dropped", "0.0400", "0.0300 – 0.0500", "3 min 05 s", "45,123,456", "codes used", "100,000"):
        assert part in text
    assert "1 loss value(s) were not finite" in text
    assert "1 line(s) of log.jsonl could not be read" in text


def test_the_held_out_item_is_marked_in_the_lists(plain: str) -> None:
    assert len(re.findall(r'<li class="hit">.*✓</li>', plain)) == 1


def test_foreign_text_stays_text(plain: str, hostile: str) -> None:
    page = Page(hostile)
    assert page.tags == Page(plain).tags, "no text adds an element"
    assert "script" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert '<script>alert("x")</script>' in "".join(page.texts)
    assert "{{ 7*7 }}" in "".join(page.texts)


def test_the_page_makes_no_request(hostile: str) -> None:
    for tag, name, value in Page(hostile).attributes:
        if name in {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}:
            assert value.startswith(("#", "data:")), (tag, name, value)
    assert "@import" not in hostile
    assert not re.search(r"url\((?!#)", hostile)
    assert "default-src 'none'" in hostile


def test_figures_take_the_colour_of_the_page_and_have_a_description(plain: str) -> None:
    assert "#010203" not in plain
    assert "currentColor" in plain
    assert "prefers-color-scheme: dark" in plain
    assert plain.count("<svg") == plain.count('role="img"') == 8  # 2 intervals, 2 costs, loss, validation, 2 scatters


def test_cost_is_drawn_where_there_is_something_to_compare(plain: str, tmp_path: Path) -> None:
    assert "training, seconds" in plain
    assert ("th", "scope", "col") in Page(plain).attributes
    assert plain.count(">training, s<") == 1, "a column of the table of the test split"
    assert "ranking, milliseconds a user" in plain
    one = replace(content("plain"), costs={"popularity": (0.0, 0.06)})
    assert "training, seconds" not in write_report(tmp_path, one).read_text(encoding="utf-8")


def test_ids_inside_the_page_are_unique(plain: str) -> None:
    sections = [value for tag, name, value in Page(plain).attributes if name == "id" and tag in {"h2", "clippath"}]
    assert len(sections) == len(set(sections))


def test_the_same_content_gives_the_same_bytes(plain: str, tmp_path: Path) -> None:
    assert write_report(tmp_path, content("plain")).read_text(encoding="utf-8") == plain


def test_sections_without_content_are_left_out(tmp_path: Path) -> None:
    path = write_report(tmp_path, ReportContent("x", "keep", "train+validation", {"users": 1}, {}))
    assert path == tmp_path / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert "section" not in page.tags
    assert "kept" in page.texts


def test_a_torn_log_line_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    path.write_bytes(orjson.dumps({"step": "a", "loss": 1.0}) + b'\n{"step": "a", "lo' + b'\n3\n{"step": "b"}\n')
    assert read_log(path) == [
        {"step": "a", "loss": 1.0},
        {"event": "unreadable"},
        {"event": "unreadable"},
        {"step": "b"},
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (True, "yes"),
        (1349, "1,349"),
        (np.int64(1349), "1,349"),
        (0.10834, "0.1083"),
        (12345.6, "12,346"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ([1, 2.5], "1, 2.5"),
        ([], "none"),
        ("text", "text"),
    ],
)
def test_numbers_read_well(value: Any, shown: str) -> None:
    assert number(value) == shown


def test_durations_read_well() -> None:
    assert [duration(s) for s in (4.21, 59.94, 185.2, 7800)] == ["4.2 s", "59.9 s", "3 min 05 s", "2 h 10 min"]


def test_nested_facts_become_flat_tables() -> None:
    tables = fact_tables({"a_b": 1, "used": [3, 4], "purity": [0.5, 1.0], "odd": [1, 2, 3], "in": {"x": {"y": 2}}})
    assert tables[0].scalars == [("a b", 1), ("odd", [1, 2, 3])]
    assert tables[0].per_level == [("used", [3, 4]), ("purity", [0.5, 1.0])]
    assert (tables[1].heading, tables[1].scalars) == ("in · x", [("y", 2)])
