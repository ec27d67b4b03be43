"""Files of a folder that together are one table."""

from pathlib import Path

from pauserec.errors import DataError


def of_folder(path: Path) -> list[Path]:
    """The parts in the order of their names, without what begins with "." or "_". Raises DataError if there is none."""
    found = sorted(part for part in path.iterdir() if part.is_file() and part.name[:1] not in "._")
    if not found:
        raise DataError(
            f"{path} is a folder without parts: name a file, or a folder of Parquet, CSV or JSON-lines files"
        )
    return found
