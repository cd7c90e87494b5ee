"""Conversations from JSON Lines: rows of messages, or of a prompt and a response."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from hornbook.errors import DataError, display_path, reason
from hornbook.language import joined, msg
from hornbook.storage.files import parse_json
from hornbook.text.decoding import decode
from hornbook.text.fields import SEPARATOR, lines_of, separate
from hornbook.text.sources import Source

Message = dict[str, str]

# Each message of a document begins so, with its role in a line: the unit separator of ASCII.
OPENING: Final = "\x1f"
ROLES: Final = ("system", "user", "assistant")
# What stands for a role, and for the end of a message, in models without special tokens: device
# controls and the end of text of ASCII. Characters, bytes and our BPE have a token for each.
MARKS: Final = {"system": "\x11", "user": "\x12", "assistant": "\x13"}
END: Final = "\x03"
# Contents cannot spell what separates them.
_SEPARATING: Final = re.compile("[\0\x03\x11-\x13\x1e\x1f\ud800-\udfff\ue000\ue001]")
_PAIRS: Final = (("prompt", "response"), ("prompt", "completion"))
NAMED_ROWS = 5


def documents(source: Source, encoding: str | None, notes: list[str]) -> Iterator[str]:
    """Each conversation as text, all but the first after a SEPARATOR; remarks go to `notes`.

    Raises: DataError that names the lines of all rows which are no conversations, so that nothing
    is left out silently.
    """
    bad: list[str] = []
    found = replaced = number = 0
    for number, line in enumerate(lines_of(decode(source, encoding, notes)), 1):
        if not line.strip():
            continue
        try:
            messages = messages_of(line)
        except DataError as error:
            bad.append(msg("line {number:,}: {error}", number=number, error=error))
            continue
        if bad:  # it will be refused, and only the other bad rows are still of interest
            continue
        pieces: list[str] = []
        for each in messages:
            content, several = _SEPARATING.subn("\ufffd", each["content"])
            replaced += several
            pieces.append(f"{OPENING}{each['role']}\n{content}")
        yield SEPARATOR * bool(found) + "".join(pieces)
        found += 1
    where = display_path(source.name)
    if bad:
        rest = len(bad) - NAMED_ROWS
        more = msg("; and {number:,} more", number=rest) if rest > 0 else ""
        named = joined("; ", bad[:NAMED_ROWS])
        if len(bad) == 1:
            raise DataError(
                msg("{where}: 1 row is no conversation: {named}", where=where, named=named)
            )
        raise DataError(
            msg(
                "{where}: {number:,} rows are no conversation: {named}{more}",
                where=where,
                number=len(bad),
                named=named,
                more=more,
            )
        )
    if not found:
        raise DataError(
            msg("{where}: expected JSON Lines of conversations, found no row", where=where)
        )
    if replaced:
        notes.append(
            msg(
                "replaced control characters in messages by U+FFFD: {replaced:,}",
                replaced=replaced,
            )
        )


def messages_of(line: str) -> list[Message]:
    """The messages of a row. Raises: DataError with what is wrong with it."""
    try:
        row = parse_json(line)
    except ValueError as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else reason(error)
        raise DataError(msg("not JSON ({why})", why=why)) from None
    if not isinstance(row, dict):
        raise DataError(msg("expected an object"))
    given = row.get("messages")
    if given is None:
        names = next((pair for pair in _PAIRS if all(name in row for name in pair)), None)
        if names is None:
            raise DataError(
                msg(
                    "expected messages, or prompt and response; its fields are {fields}",
                    fields=", ".join(map(repr, list(row)[:8])) or msg("none"),
                )
            )
        pairs = zip(("user", "assistant"), names, strict=True)
        given = [{"role": role, "content": row[name]} for role, name in pairs]
    if not isinstance(given, list):
        raise DataError(msg("messages: expected a list"))
    messages = [message_of(number, each) for number, each in enumerate(given, 1)]
    if not any(each["role"] == "assistant" and each["content"] for each in messages):
        raise DataError(msg("no answer: expected a message of the assistant"))
    return messages


def message_of(number: int, given: Any) -> Message:
    """One message of a row. Raises: DataError."""
    role = given.get("role") if isinstance(given, dict) else None
    if role not in ROLES:
        raise DataError(
            msg(
                "message {number}: the role {role!r}, expected {known}",
                number=number,
                role=str(role)[:40],
                known=", ".join(ROLES),
            )
        )
    content = given.get("content")
    if not isinstance(content, str):
        raise DataError(msg("message {number}: expected a text as its content", number=number))
    return {"role": role, "content": content}


def conversations(chunks: Iterator[str]) -> Iterator[list[Message]]:
    """The conversations of a text that `documents` has made."""
    for document in separate(chunks):
        yield parsed(document)


def parsed(document: str) -> list[Message]:
    """The messages of one document. Raises: DataError for another text."""
    first, *messages = document.split(OPENING)
    pairs = [each.partition("\n") for each in messages]
    if first or not pairs or any(role not in ROLES for role, _, _ in pairs):
        raise DataError(msg("expected a conversation, got another text"))
    return [{"role": role, "content": content} for role, _, content in pairs]


def as_row(messages: Sequence[Message]) -> str:
    """A conversation as a row of JSON Lines."""
    return json.dumps({"messages": list(messages)}) + "\n"
