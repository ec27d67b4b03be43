"""A recipe's TOML: --set, null, and errors that name the key at fault."""

import tomllib
from typing import Any

from pydantic import ValidationError

from pauserec.errors import RecipeError


def choose_source(raw: dict[str, Any], given: set[str]) -> None:
    """A source named by an override replaces the files that the recipe names, which would otherwise be read in its place."""
    if "data.source" not in given or not isinstance(raw.get("data"), dict):
        return
    for key in ("interactions", "items"):
        if f"data.{key}" in given:
            raise RecipeError(f"data.source and data.{key} name different data: leave one of them out")
        raw["data"].pop(key, None)


def replaced(value: Any, old: Any, new: Any) -> Any:
    """`value` with `old` turned into `new` at every depth."""
    if isinstance(value, dict):
        return {key: replaced(entry, old, new) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(entry, old, new) for entry in value]
    return new if value == old and type(value) is type(old) else value


def apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override!r}: write KEY=VALUE, for example --set model.layers=4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.split(".")
    node: Any = raw
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            node = next((e for e in node if isinstance(e, dict) and e.get("name") == part), None)
        else:
            node = node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise RecipeError(f"--set {key}: there is no {'.'.join(parents[: depth + 1])} in this recipe")
    if not isinstance(node, dict):
        raise RecipeError(f"--set {key}: name an entry of it and a setting, for example stages.sft.epochs=2")
    node[last] = value


def explain(error: ValidationError, raw: dict[str, Any]) -> str:
    first = error.errors()[0]
    where = _setting(first["loc"], raw)
    if first["type"] == "extra_forbidden":
        return f"unknown setting {where!r}: remove it or check its spelling"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    message = _PLAIN.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"setting {where!r}: {message}{more}" if where else f"recipe: {message}{more}"


_PLAIN = {
    "tuple_type": 'write a list, for example ["popularity"]',
    "model_type": "write a table, for example { rank = 16 }",
    "model_attributes_type": "write a table, for example { rank = 16 }",
    "string_type": 'write text, in quotes: "2024"',
}
"""What is wrong, by pydantic's kind of error, where its own words speak of Python."""


def _setting(place: tuple[int | str, ...], raw: dict[str, Any]) -> str:
    """A place in the checked recipe as the key that `--set` takes: entries by name, without the tags of unions."""
    parts: list[str] = []
    node: Any = raw
    for part in place:
        if isinstance(node, dict) and part not in node and part == node.get("kind"):
            continue
        known = (isinstance(node, dict) and part in node) or (isinstance(node, list) and part in range(len(node)))
        node = node[part] if known else None
        named = isinstance(part, int) and isinstance(node, dict)
        parts.append(str(node.get("name", node.get("kind", part)) if named else part))
    return ".".join(parts)
