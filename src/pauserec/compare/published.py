"""Published numbers to stand beside ours: claims, under the papers' own protocols. published.json names the sources."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import orjson

from pauserec.evaluation.metrics import METRICS


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = orjson.loads(files("pauserec.compare").joinpath("published.json").read_bytes())
    return content


def published(data: Mapping[str, Any], model: str) -> str:
    """Metrics of a model as its table prints them, "–" for one not given, and the rule for seen items they were measured by.

    Empty where nothing is known.

    data: users, items and interactions, by which the data set is recognised, and how ties in time were broken: where a hash
    broke them, many targets are others than in the published tables, so nothing of those stands beside ours. model: a row's
    name.
    """
    name, row = _known(data, model)
    if row is None:
        return ""
    rule = _content()["seen"].get(name, _content()["seen"]["*"])
    values = (f"{row[metric]:.4f}".lstrip("0") if metric in row else "–" for metric in METRICS)
    return f"{' / '.join(values)} ({rule})"


def sources(data: Mapping[str, Any], models: Sequence[str]) -> str:
    """Where the published numbers of these rows are from, as a line; empty where there are none."""
    names = [name for name, row in (_known(data, model) for model in models) if row is not None]
    if not names:
        return ""
    known: dict[str, str] = _content()["sources"]
    own = [f"{name}: {known[name]}" for name in dict.fromkeys(names) if name in known]
    others = [f"other rows: {known['*']}"] if any(name not in known for name in names) else []
    return f"Published numbers are claims of others. {'; '.join(own + others)}."


def _known(data: Mapping[str, Any], model: str) -> tuple[str, dict[str, float] | None]:
    """A row's name without run and fit, and what was published of it."""
    if data.get("ties") == "hash":
        return "", None
    counts = [data.get(key) for key in ("users", "items", "interactions")]
    name = model.rpartition("/")[2].partition(",")[0]
    rows: dict[str, Any] = next((entry["rows"] for entry in _content()["data"] if entry["counts"] == counts), {})
    return name, rows.get(name)
