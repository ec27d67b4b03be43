"""A recipe as a person would write it: what was chosen, each line with the reason above it."""

import tomllib
from collections.abc import Mapping
from typing import Any

import tomli_w

WIDTH = 100


def written(content: Mapping[str, Any], reasons: Mapping[str, str], head: str) -> str:
    """TOML of a recipe's nested dicts. reasons: comments by dotted key, list entries by their names. head: opens the file."""
    lines = [*_comment(head), f"name = {_value(content['name'])}"]
    for section, value in content.items():
        if isinstance(value, Mapping):
            lines += ["", *_comment(reasons.get(section, "")), f"[{section}]", *_keys(value, section, reasons)]
        elif isinstance(value, list):
            for entry in value:
                place = f"{section}.{entry['name']}"
                lines += ["", *_comment(reasons.get(place, "")), f"[[{section}]]", *_keys(entry, place, reasons)]
    text = "\n".join(lines) + "\n"
    tomllib.loads(text)
    return text


def _keys(table: Mapping[str, Any], place: str, reasons: Mapping[str, str]) -> list[str]:
    """Plain values first, then tables and lists of tables inside, which TOML wants at the end."""
    lines: list[str] = []
    inner: list[str] = []
    for key, value in table.items():
        where = f"{place}.{key}"
        comment = _comment(reasons.get(where, ""))
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            for entry in value:
                name = f"{where}.{entry['name']}"
                inner += ["", *_comment(reasons.get(name, "")), f"[[{where}]]", *_keys(entry, name, reasons)]
        elif isinstance(value, Mapping):
            inner += ["", *comment, f"[{where}]", *_keys(value, where, reasons)]
        else:
            lines += [*comment, f"{key} = {_value(value)}"]
    return [*lines, *inner]


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return tomli_w.dumps({"value": "null" if value is None else value}).strip().partition(" = ")[2]


def _comment(text: str) -> list[str]:
    """Lines of at most WIDTH letters that begin with #."""
    found: list[str] = []
    for paragraph in text.splitlines():
        line = "#"
        for word in paragraph.split():
            if len(line) + 1 + len(word) > WIDTH:
                found.append(line)
                line = "#"
            line += f" {word}"
        found.append(line)
    return found
