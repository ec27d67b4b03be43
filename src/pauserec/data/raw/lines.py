"""Lines of a text file in blocks: plain or compressed, in any encoding, and a bad line stops no other."""

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import polars as pl
from rich.console import Console
from rich.progress import Progress

from pauserec.errors import DataError

BLOCK = 1 << 25
"""Bytes of text read at once."""
_SHOW_PROGRESS_FROM = 4_000_000
"""Bytes of a file."""
_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, OSError)
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Marks that a text file may begin with, the longer ones first: UTF-32's begins with UTF-16's."""


@dataclass(frozen=True)
class Block:
    """Lines that follow one another, their ends cut off.

    first: number of the first line, from 1. text: a String per line. undecoded: places of lines that are not in the file's
    encoding, shown with their bytes in hexadecimal.
    """

    first: int
    text: pl.Series
    undecoded: frozenset[int] = frozenset()


def read_blocks(path: Path, encoding: str | None = None) -> Iterator[Block]:
    """All lines of a file: LF, CRLF or CR at their ends, without a byte order mark.

    encoding: null finds UTF-8, and UTF-16 or UTF-32 by their mark. Raises DataError on a damaged file, and on UTF-16 or
    UTF-32 without a mark.
    """
    with _opened(path) as (file, plain):
        console, size = Console(stderr=True), path.stat().st_size
        with Progress(console=console, transient=True, disable=size < _SHOW_PROGRESS_FROM) as bar:
            task = bar.add_task(f"reading {path.name}", total=size)
            number, rest, ends = 1, b"", b""
            for data in _utf8(file, path, encoding):
                if not ends:
                    ends = b"\r" if b"\n" not in data and b"\r" in data.strip() else b"\n"
                data = rest + (data.replace(b"\r", b"\n") if ends == b"\r" else data)
                cut = data.rfind(b"\n") + 1
                rest = data[cut:]
                bar.update(task, completed=plain.tell())
                if cut:
                    block = _block(number, data[: cut - 1])
                    number += len(block.text)
                    yield block
            if rest:
                yield _block(number, rest)


def _utf8(file: BinaryIO, path: Path, encoding: str | None) -> Iterator[bytes]:
    """The file's bytes in UTF-8. Bytes that are not in its encoding stay as they are, and show as such in their line."""
    decoder, start = None, True
    while True:
        try:
            data = file.read(BLOCK)
        except _DAMAGED as error:
            raise DataError(f"{path} is a damaged or truncated {_kind(path)} file: fetch or pack it again") from error
        if start:
            encoding = encoding or _marked(path, data)
            decoder = codecs.getincrementaldecoder(encoding)("surrogateescape") if encoding else None
        try:
            text = decoder.decode(data, final=not data).encode("utf-8", "surrogateescape") if decoder else data
        except UnicodeError as error:
            raise DataError(f"{path} is not in {encoding} ({error}): set data.encoding") from None
        if start:
            text, start = text.removeprefix(codecs.BOM_UTF8), False
        if text:
            yield text
        if not data:
            return


def _marked(path: Path, data: bytes) -> str | None:
    """The encoding that a file's first bytes name; null for UTF-8."""
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            return name
    if data[:1024].count(b"\0") * 3 > len(data[:1024]) > 8:
        raise DataError(
            f'{path} looks like UTF-16 or UTF-32 without a mark: set data.encoding="utf-16-le", or convert it with iconv'
        )
    return None


def _block(first: int, data: bytes) -> Block:
    undecoded: list[int] = []
    try:
        text = data.decode()
    except UnicodeDecodeError:
        lines = data.split(b"\n")
        for place, line in enumerate(lines):
            try:
                line.decode()
            except UnicodeDecodeError:
                undecoded.append(place)
                lines[place] = line.decode(errors="backslashreplace").encode()
        text = b"\n".join(lines).decode()
    series = pl.Series("text", [text]).str.split("\n").explode()
    if "\r" in text:
        series = series.str.strip_chars_end("\r")
    return Block(first, series, frozenset(undecoded))


def _kind(path: Path) -> str:
    names = {".bz2": "bzip2", ".xz": "xz"}
    return names.get(path.suffix.lower(), "gzip")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The file as it reads, and the plain file below."""
    with path.open("rb") as plain:
        head = plain.read(5)
        plain.seek(0)
        packed = next((kind for mark, kind in _PACKED.items() if head.startswith(mark)), None)
        yield (cast(BinaryIO, packed(plain)) if packed else plain), plain
