"""Lines of a text file, plain or gzip: decoded one by one, so that a bad one stops no other."""

import gzip
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from rich.console import Console
from rich.progress import Progress

from pauserec.errors import DataError

_SHOW_PROGRESS_FROM = 4_000_000
"""Bytes of a file."""
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Line:
    """One line, its end cut off."""

    number: int
    raw: str
    text: str | None
    """None where the bytes are not UTF-8."""


class Lines:
    """Decoded lines of a file, with push-back for records that run over several lines."""

    def __init__(self, path: Path) -> None:
        self._source = read_lines(path)
        self._back: deque[Line] = deque()

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        return self._back.popleft() if self._back else next(self._source)

    def push_back(self, lines: Sequence[Line]) -> None:
        """Have these come again next, in this order."""
        self._back.extendleft(reversed(lines))


def read_lines(path: Path) -> Iterator[Line]:
    """Lines without their ends (LF or CRLF) and without a byte order mark. DataError on UTF-16 and broken gzip."""
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        file = cast(BinaryIO, gzip.GzipFile(fileobj=plain)) if packed else plain
        size = path.stat().st_size
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=size < _SHOW_PROGRESS_FROM) as bar:
            task = bar.add_task(f"reading {path.name}", total=size)
            try:
                for number, line in enumerate(file, 1):
                    if number == 1:
                        _refuse_utf16(path, line)
                        line = line.removeprefix(b"\xef\xbb\xbf")
                    if number % 20_000 == 0:
                        bar.update(task, completed=plain.tell())
                    yield _decode(number, line.rstrip(b"\r\n"))
            except (EOFError, gzip.BadGzipFile, zlib.error):
                raise DataError(f"{path} is a damaged or truncated gzip file: fetch or pack it again") from None


def _decode(number: int, line: bytes) -> Line:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return Line(number, line.decode(errors="backslashreplace"), None)
    return Line(number, text, text)


def _refuse_utf16(path: Path, line: bytes) -> None:
    start = line[:1024]
    if start.startswith(_UTF16) or start.count(b"\0") * 3 > len(start) > 8:
        raise DataError(f"{path} is in UTF-16 or UTF-32: convert it with iconv -f UTF-16 -t UTF-8")
