"""log.jsonl: what the steps of a run logged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl. A line torn by a kill becomes {"event": "unreadable"}, which the report counts."""
    lines: list[dict[str, Any]] = []
    for raw in path.read_bytes().splitlines() if path.exists() else []:
        try:
            line = orjson.loads(raw)
        except orjson.JSONDecodeError:
            line = None
        lines.append(line if isinstance(line, dict) else {"event": "unreadable"})
    return lines


def last_trainings(log: Sequence[Mapping[str, Any]], steps: Sequence[str]) -> list[Mapping[str, Any]]:
    """Of these steps what was logged since each last began anew, and the lines that belong to no step."""
    begun = {line["step"]: place for place, line in enumerate(log) if line.get("event") == "begin"}
    return [
        line
        for place, line in enumerate(log)
        if "step" not in line or (line["step"] in steps and place >= begun.get(line["step"], 0))
    ]
