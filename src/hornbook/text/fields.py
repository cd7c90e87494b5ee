"""One field of the records of JSON Lines, JSON, CSV or Parquet, as documents in one text."""

import csv
import difflib
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from hornbook.errors import DataError, reason
from hornbook.language import msg
from hornbook.storage.files import parse_json
from hornbook.text.decoding import NotTextError, decode, opened
from hornbook.text.formats import PARQUET, delimiter
from hornbook.text.sources import Source

# The record separator of ASCII (and of RFC 7464) is one token of every tokenizer.
SEPARATOR = "\x1e"
_MISSING = object()
_LINE_END = re.compile(r"\r\n|\r|\n")
_NO_TEXT = re.compile(r"[\0\x1e\ud800-\udfff]")


def documents(source: Source, encoding: str | None, field: str, notes: list[str]) -> Iterator[str]:
    """The texts of a field, each but the first after a SEPARATOR; notes for the user are appended.

    Records without the field or with an empty one are left out, and counted.
    Raises: NotTextError if the source has no such records or its fields are no texts.
    """
    left_out = replaced = found = number = 0
    names: dict[str, None] = {}
    for number, (value, fields) in enumerate(_values(source, encoding, field, notes), 1):
        if value is _MISSING or value is None or value == "":
            left_out += 1
            names |= dict.fromkeys(fields) if len(names) < 100 else {}
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise NotTextError(
                msg(
                    "{source}: the field {field!r} of record {number:,} is no text but a {name}",
                    source=source.name,
                    field=field,
                    number=number,
                    name=type(value).__name__,
                )
            )
        text, bad = _NO_TEXT.subn("\ufffd", str(value))
        yield SEPARATOR * bool(found) + text
        found, replaced = found + 1, replaced + bad
    if not found:
        raise _no_field(source.name, field, list(names), number)
    if left_out:
        notes.append(
            msg(
                "left out records without text in {field!r}: {number:,}",
                field=field,
                number=left_out,
            )
        )
    if replaced:
        notes.append(
            msg(
                "replaced NUL, U+001E and halves of surrogate pairs in documents by U+FFFD: "
                "{number:,}",
                number=replaced,
            )
        )


def separate(chunks: Iterable[str]) -> Iterator[str]:
    """The documents of a text in chunks."""
    held: list[str] = []
    for chunk in chunks:
        first, *others = chunk.split(SEPARATOR)
        held.append(first)
        for document in others:
            yield "".join(held)
            held = [document]
    yield "".join(held)


def _no_field(name: str, field: str, fields: list[str], records: int) -> NotTextError:
    if field in fields:
        return NotTextError(
            msg(
                "{name}: the field {field!r} is empty in all {records:,} records",
                name=name,
                field=field,
                records=records,
            )
        )
    close = difflib.get_close_matches(field, fields, 1)
    hint = msg("; did you mean {near}?", near=close[0]) if close else ""
    listed = ", ".join(map(repr, fields[:20])) or msg("none")
    return NotTextError(
        msg(
            "{name} has no field {field!r}: its fields are {listed}{hint}",
            name=name,
            field=field,
            listed=listed,
            hint=hint,
        )
    )


def _values(
    source: Source, encoding: str | None, field: str, notes: list[str]
) -> Iterator[tuple[Any, Iterable[str]]]:
    """The field's value of each record, _MISSING where there is none, and the record's fields."""
    with opened(source) as file:
        parquet = file.read(4) == PARQUET
    if parquet:
        yield from _of_parquet(source, field)
        return
    chunks = decode(source, encoding, notes)
    first = next(chunks, "")
    lines = lines_of(chain([first], chunks))
    match first.lstrip()[:1]:
        case "[":
            yield from _of_objects(source.name, [(1, "".join(lines))], field)
        case "{":
            yield from _of_objects(source.name, enumerate(lines, 1), field)
        case _:
            yield from _of_table(source.name, lines, field)


def lines_of(chunks: Iterable[str]) -> Iterator[str]:
    """Lines with their ends: LF, CRLF, or CR, which old spreadsheets write.

    JSON has neither within a string, but may have the other characters that end lines elsewhere.
    """
    held: list[str] = []
    ending = ""
    for chunk in chunks:
        text = ending + chunk
        ending = "\r" if text.endswith("\r") else ""  # a LF may follow
        start, stop = 0, len(text) - len(ending)
        for found in _LINE_END.finditer(text, 0, stop):
            yield "".join([*held, text[start : found.end()]])
            held.clear()
            start = found.end()
        held.append(text[start:stop])
    if last := "".join([*held, ending]):
        yield last


def _of_objects(
    name: str, lines: Iterable[tuple[int, str]], field: str
) -> Iterator[tuple[Any, Iterable[str]]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else reason(error)
            if number == 1 and line.strip().startswith("{") and not line.rstrip().endswith("}"):
                why = msg(
                    "expected JSON Lines, an object a line, or a list; this is one large object"
                )
            raise NotTextError(
                msg("{name}, line {number:,}: not JSON ({why})", name=name, number=number, why=why)
            ) from None
        for record in value if isinstance(value, list) else [value]:
            if not isinstance(record, dict):
                raise NotTextError(
                    msg(
                        "{name}, line {number:,}: expected an object with fields",
                        name=name,
                        number=number,
                    )
                )
            yield record.get(field, _MISSING), record


def _of_table(name: str, lines: Iterator[str], field: str) -> Iterator[tuple[Any, Iterable[str]]]:
    header = next(lines, "")
    csv.field_size_limit(2**31 - 1)  # a document may be longer than 128 kB
    try:
        columns: list[str] = next(csv.reader([header], delimiter=delimiter(header)), [])
        if field not in columns:
            yield _MISSING, columns
            return
        place = columns.index(field)
        for row in csv.reader(lines, delimiter=delimiter(header)):
            yield row[place] if place < len(row) else _MISSING, columns
    except csv.Error as error:
        raise NotTextError(
            msg("{name} is not a table (CSV): {error}", name=name, error=error)
        ) from None


def _of_parquet(source: Source, field: str) -> Iterator[tuple[Any, Iterable[str]]]:
    try:
        from pyarrow import ArrowException  # pyrefly: ignore[missing-import]
        from pyarrow.parquet import ParquetFile  # pyrefly: ignore[missing-import]
    except ImportError:
        raise DataError(
            msg("{source}: Parquet needs pyarrow (pip install pyarrow)", source=source.name)
        ) from None
    with opened(source) as file:
        try:
            table = ParquetFile(file)
            columns = table.schema_arrow.names
            if field not in columns:
                yield _MISSING, columns
                return
            for batch in table.iter_batches(batch_size=1024, columns=[field]):
                yield from ((value, columns) for value in batch.column(0).to_pylist())
            source.check(file)
        except (ArrowException, OSError, ValueError) as error:
            raise NotTextError(msg("{name}: {why}", name=source.name, why=reason(error))) from None
