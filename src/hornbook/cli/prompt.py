"""The prompt of `hornbook sample`, and its stop strings: from arguments or standard input."""

import os
import re
import sys

from hornbook.cli.console import note
from hornbook.errors import ConfigError, DataError, reason
from hornbook.language import msg
from hornbook.text.forms import BYTE_ORDER_MARK
from hornbook.text.tokenizer import Tokenizer
from hornbook.text.tokenizer.unknown import SURROGATE

ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
_ESCAPE = re.compile(r"\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|(.?))", re.DOTALL)


def typed(name: str, text: str, *, escapes: bool, encoding: str | None) -> str:
    """The text that an argument means; a note where it has an escape that is not read as one.

    Python gives bytes of an argument that are not UTF-8 as halves of surrogate pairs; they are
    decoded again, as `encoding`.
    Raises: DataError for bytes in another encoding; ConfigError for an escape that is not known.
    """
    if SURROGATE.search(text):
        try:
            data = os.fsencode(text)
        except UnicodeEncodeError:
            raise DataError(
                msg("{name} contains half a surrogate pair: expected characters", name=name)
            ) from None
        text = decoded(name, data, encoding)
    if escapes:
        return _ESCAPE.sub(_character, text)
    if found := re.search(r"\\[nrt]", text):
        note(
            msg(
                "{name} has a backslash and the letter {letter}, which are two characters; "
                "--escapes reads {escape} as one, and so does a shell in $'...'",
                name=name,
                letter=found[0][1],
                escape=found[0],
            )
        )
    return text


def _character(escape: re.Match[str]) -> str:
    *codes, letter = escape.groups()
    if letter in ESCAPES:
        return ESCAPES[letter]
    number = int("".join(filter(None, codes)) or "-1", 16)
    if not 0 <= number <= sys.maxunicode or 0xD800 <= number < 0xE000:
        raise ConfigError(
            msg(
                "--escapes: {escape!r} is not a character; expected \\n, \\r, \\t, \\\\, \\xHH, "
                "\\uHHHH or \\UHHHHHHHH",
                escape=escape[0],
            )
        )
    return chr(number)


def decoded(name: str, data: bytes, encoding: str | None) -> str:
    """The text of some bytes.

    Raises: DataError if they are not text in the encoding.
    """
    # What guesses encodings is imported where a prompt needs it: most are typed, in UTF-8.
    from hornbook.text.decoding import decode
    from hornbook.text.sources import BytesSource

    return "".join(decode(BytesSource(name, data), encoding, []))


def piped(tokenizer: Tokenizer, encoding: str | None) -> str:
    """The prompt on standard input; for a run that has not recorded its text's line ends, with LF.

    Raises: DataError if it cannot be read, or is not text in its encoding.
    """
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise DataError(msg("expected a prompt on standard input, but there is no standard input"))
    try:
        data = stream.read()
    except (OSError, ValueError) as error:
        raise DataError(msg("cannot read standard input: {error}", error=reason(error))) from None
    text = decoded(msg("standard input"), data, encoding).removeprefix(BYTE_ORDER_MARK)
    if tokenizer.kind == "char" or tokenizer.text_has_cr is not None:
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n")
