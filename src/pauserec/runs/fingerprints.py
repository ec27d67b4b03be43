"""Fingerprints: what a step is made from, as one hash, and what to say where it differs."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from pauserec.config import Settings


class Fingerprint(NamedTuple):
    """A step's fingerprint by today's rule and by that of version 0.1, and the settings that count today."""

    now: str
    first: str
    settings: Mapping[str, Any] | None = None

    def known(self, found: str, before: "Fingerprint | None" = None, *, first_rule: bool = False) -> bool:
        """Whether a step with the fingerprint `found` is this one, as far as its own settings and inputs say.

        first_rule: `found` was counted by version 0.1. before: the step by the recipe that made it. Where the two are the same
        by today's rule, it is, whatever the rule of the day counted.
        """
        if found == (self.first if first_rule else self.now):
            return True
        return before is not None and before.now == self.now and found == (before.first if first_rule else before.now)


def fingerprint(name: str, settings: Settings | None, inputs: Sequence[Fingerprint]) -> Fingerprint:
    """Of a step's name, settings and inputs."""

    def hashed(identity: Mapping[str, Any] | None, below: list[str]) -> str:
        content = {"step": name, "settings": identity, "inputs": below}
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()

    today = settings.identity() if settings else None
    at_first = settings.identity(first_rule=True) if settings else None
    return Fingerprint(
        hashed(today, [step.now for step in inputs]), hashed(at_first, [step.first for step in inputs]), today
    )


def changed_settings(
    before: Mapping[str, Any] | None, now: Mapping[str, Any] | None, name: Callable[[str], str] = str
) -> str:
    """The settings that differ, as "epochs was 2 and is 3"; empty where none does. At most three are named.

    name: what a setting is called for the reader.
    """
    one, other = _flat(before or {}), _flat(now or {})
    keys = [key for key in dict.fromkeys([*one, *other]) if one.get(key, _MISSING) != other.get(key, _MISSING)]
    named = [
        f"{name(key)} was {_shown(one.get(key, _MISSING))} and is {_shown(other.get(key, _MISSING))}"
        for key in keys[:3]
    ]
    return "; ".join(named) + (f"; and {len(keys) - 3} more" if len(keys) > 3 else "")


_MISSING = object()


def _shown(value: Any) -> str:
    return "not set" if value is _MISSING else orjson.dumps(value).decode()[:60]


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, Mapping):
        return {prefix: content}
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return found
