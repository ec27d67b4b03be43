"""A comparison as tables: in the terminal, as Markdown, as HTML, as JSON."""

from dataclasses import dataclass
from html import escape

import orjson
from rich.table import Table
from rich.text import Text

from pauserec.compare.entries import Comparison, Row
from pauserec.compare.published import published, sources
from pauserec.evaluation.metrics import METRICS
from pauserec.report.page import cost_charts
from pauserec.results.table import HEADINGS


@dataclass(frozen=True)
class TextTable:
    """A title, column headings, rows of cells."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def rich(self) -> Table:
        """For the terminal. No cell is broken; headings may be, between words."""
        table = Table(title=Text(self.title))
        for place, (heading, width) in enumerate(zip(self.headings, self._widths(), strict=True)):
            table.add_column(heading, justify="right" if place else "left", width=width)
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def parts(self, width: int) -> list["TextTable"]:
        """As many tables of the same rows as it takes for each to fit `width` characters; all begin with the first column."""
        first, *others = self._widths()
        groups: list[list[int]] = [[]]
        used = room = first + 4
        for place, wide in enumerate(others, start=1):
            if groups[-1] and used + wide + 3 > width:
                groups.append([])
                used = room
            groups[-1].append(place)
            used += wide + 3
        return [self._columns([0, *group]) for group in groups]

    def _columns(self, places: list[int]) -> "TextTable":
        rows = tuple(tuple(row[place] for place in places) for row in self.rows)
        return TextTable(self.title, tuple(self.headings[place] for place in places), rows)

    def _widths(self) -> list[int]:
        """What each column needs: its longest cell, or the longest word of its heading."""
        words = [max(map(len, heading.split()), default=0) for heading in self.headings]
        return [max([word, *(len(row[place]) for row in self.rows)]) for place, word in enumerate(words)]

    def markdown(self) -> str:
        """As a Markdown table; a bar inside a cell is escaped."""
        lines = [self.headings, ("---",) * len(self.headings), *self.rows]
        escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in escaped)

    def html(self) -> str:
        """As an HTML table."""
        head = "".join(f"<th>{escape(heading)}</th>" for heading in self.headings)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows)
        return f"<table><caption>{escape(self.title)}</caption><tr>{head}</tr>{body}</table>"


def tables(comparison: Comparison) -> tuple[TextTable, TextTable, TextTable]:
    """The main table, what each model cost (the paper's Table 6), and the one of slices."""
    data = comparison.data
    protocol = f"test split, {data['users']:,} users, {data['items']:,} items, seen items: {comparison.seen}"
    protocol += f", ties: {data['ties']}" if "ties" in data else ""
    tested = comparison.reference is not None
    columns = ("model", "fit", "seeds", *(HEADINGS[metric] for metric in METRICS), "95% of NDCG@10")
    columns += (f"against {comparison.reference}", "p") if tested else ()
    columns += ("train s", "ms/user", "coverage", "popularity")
    known = [published(data, row.model) for row in comparison.rows]
    columns += ("published Hit@5 / 10, NDCG@5 / 10 (seen items)",) if any(known) else ()
    rows = tuple(
        _cells(row, tested) + ((beside,) if any(known) else ())
        for row, beside in zip(comparison.rows, known, strict=True)
    )
    return TextTable(protocol, columns, rows), _costs(comparison), _slices(comparison, protocol)


def _costs(comparison: Comparison) -> TextTable:
    """Costs as such and, where the reference was trained, as multiples of the reference's."""
    reference = next((row for row in comparison.rows if row.model == comparison.reference), None)
    columns: tuple[str, ...] = ("model", "device hours", "tokens", "trained parameters", "s/user")
    trained = reference if reference is not None and reference.device_hours and reference.ms_per_user else None
    columns += (f"hours / {trained.model}", f"s/user / {trained.model}") if trained else ()
    rows = []
    for row in comparison.rows:
        cells = [
            row.model,
            "–" if row.device_hours is None else f"{row.device_hours:.3f}",
            "–" if row.tokens is None else f"{row.tokens:,}",
            "–" if row.trained_parameters is None else f"{row.trained_parameters:,}",
            f"{row.ms_per_user / 1e3:.4f}",
        ]
        if trained and trained.device_hours:
            cells.append("–" if row.device_hours is None else f"{row.device_hours / trained.device_hours:.2f}")
            cells.append(f"{row.ms_per_user / trained.ms_per_user:.2f}")
        rows.append(tuple(cells))
    return TextTable("cost of training and of a recommendation", columns, tuple(rows))


def _slices(comparison: Comparison, protocol: str) -> TextTable:
    users = {part: int(found["users"]) for row in comparison.rows for part, found in row.slices.items()}
    rows = tuple((row.model, *(_slice(row, part) for part in users)) for row in comparison.rows)
    headings = ("NDCG@10", *(f"{part}: {count:,} users" for part, count in users.items()))
    return TextTable(f"by slice; {protocol}", headings, rows)


def origins(comparison: Comparison) -> str:
    """Where the published numbers beside its rows are from; empty where there are none."""
    return sources(comparison.data, [row.model for row in comparison.rows])


def rendered(comparison: Comparison, form: str) -> str:
    """As text of the form "md", "html" or "json"."""
    if form == "json":
        return orjson.dumps(comparison.as_json(), option=orjson.OPT_INDENT_2).decode()
    found, origin = tables(comparison), origins(comparison)
    if form == "md":
        return "\n\n".join([table.markdown() for table in found] + ([origin] if origin else []))
    style = "body{font-family:sans-serif}table{border-collapse:collapse;margin:1em}"
    style += "td,th{padding:.2em .6em;text-align:right}caption{font-weight:bold}"
    values = {row.model: row.metrics["ndcg@10"] for row in comparison.rows}
    charts = cost_charts(values, {row.model: (row.train_seconds, row.ms_per_user) for row in comparison.rows})
    page = [*(table.html() for table in found), *(f"<figure>{chart}</figure>" for chart in charts)]
    page += [f"<p>{escape(origin)}</p>"] if origin else []
    return f"<!doctype html><meta charset='utf-8'><style>{style}</style>" + "".join(page)


def _cells(row: Row, tested: bool) -> tuple[str, ...]:
    values = [f"{row.metrics[metric]:.4f}" for metric in METRICS]
    if row.deviation is not None:
        values = [f"{value} ± {row.deviation[metric]:.4f}" for value, metric in zip(values, METRICS, strict=True)]
    low, high = row.ci95["ndcg@10"]
    cells = (row.model, row.final_fit, str(len(row.runs)), *values, f"{low:.4f}–{high:.4f}")
    if tested:
        cells += ("", "") if row.difference is None else (f"{row.difference:+.4f}", f"{row.p_value:.4f}")
    return (
        *cells,
        f"{row.train_seconds:,.0f}",
        f"{row.ms_per_user:.1f}",
        f"{row.coverage:.3f}",
        f"{row.popularity:.2f}",
    )


def _slice(row: Row, part: str) -> str:
    value = row.slices.get(part, {}).get("ndcg@10")
    return "–" if value is None else f"{value:.4f}"
