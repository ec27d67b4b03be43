"""Published numbers to stand beside ours: claims, under the papers' own protocols. published.json names the sources."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import orjson

from pauserec.evaluation.metrics import METRICS


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = orjson.loads(files("pauserec").joinpath("published.json").read_bytes())
    return content


def published(data: Mapping[str, Any], model: str) -> str:
    """Metrics of a model as its table prints them, "–" for one not given, and the rule for seen items they were measured by.

    Empty where nothing is known.

    data: users, items and interactions, by which the data set is recognised. model: a row's name.
    """
    counts = [data[key] for key in ("users", "items", "interactions")]
    name = model.rpartition("/")[2].partition(",")[0]
    for entry in _content()["data"]:
        if entry["counts"] == counts and name in entry["rows"]:
            row = entry["rows"][name]
            rule = _content()["seen"].get(name, _content()["seen"]["*"])
            values = (f"{row[metric]:.4f}".lstrip("0") if metric in row else "–" for metric in METRICS)
            return f"{' / '.join(values)} ({rule})"
    return ""
