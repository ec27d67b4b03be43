"""Files of a folder that together are one table."""

from pathlib import Path

from pauserec.errors import DataError


def of_folder(path: Path) -> list[Path]:
    """The parts in the order of their names, without what begins with "." or "_". Raises DataError if there is none."""
    inside = (part for part in path.rglob("*") if part.is_file() and part.stat().st_size)
    found = sorted(part for part in inside if not any(name[:1] in "._" for name in part.relative_to(path).parts))
    if not found:
        raise DataError(
            f"{path} is a folder without parts: name a file, or a folder of Parquet, CSV or JSON-lines files"
        )
    return found
