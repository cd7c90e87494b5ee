"""Every error that hornbook raises on purpose, under one base class.

Each message says what was expected, what came, and what to do, on one line where possible. The
command line prints the message and exits with ``exit_code``: 2 for a wrong request, 1 for a
failure, 3 when training diverged.
"""

import os
import re
import shlex


class HornbookError(Exception):
    """The base class: catching it catches every hornbook error."""

    exit_code = 1


class ConfigError(HornbookError):
    """A setting that is unknown, of the wrong type, out of range, or in conflict with another."""

    exit_code = 2


class DataError(HornbookError):
    """A text that cannot be read or cannot be trained on."""


class UnknownCharacterError(DataError):
    """A character that is not in the tokenizer's vocabulary."""


class CheckpointError(HornbookError):
    """A run folder or checkpoint that is missing, incomplete or damaged."""


class RankError(HornbookError):
    """A process of several that train together was lost, or is not like the others."""


class NonFiniteLossError(HornbookError):
    """The loss or a gradient became NaN or infinite; training stopped before the update."""

    exit_code = 3


class HornbookWarning(UserWarning):
    """Something the user should know that is no error; the command line prints one line each."""

    label = "note"


class Reason(str):
    """The message of an error on one line, and `said`, what it was made of.

    What an error says may have a translation, which `language.translated` finds by `said`.
    """

    said: str


def reason(error: BaseException, most: int | None = None) -> Reason:
    """The message of an error on one line, or the name of its class if it has none.

    `most` is how many characters of it are kept.
    """
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    made = Reason(redacted(" ".join(str(text).split()))[:most])
    made.said = next((each for each in error.args if isinstance(each, str) and each == text), text)
    return made


def display_path(path: str | os.PathLike[str]) -> str:
    """A path for a one-line message: escaped if not printable, shortened if long."""
    text = redacted(os.fspath(path))
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 200 else f"{text[:150]}...{text[-45:]}"


def quoted(word: str | os.PathLike[str]) -> str:
    """A word as a shell takes it, on one line; a path that begins with a hyphen gets a ./ first."""
    text = os.fspath(word)
    if not isinstance(word, str) and text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    escaped = (
        c if c.isprintable() and c not in "'\\" else "".join(f"\\x{b:02x}" for b in os.fsencode(c))
        for c in text
    )
    return f"$'{''.join(escaped)}'"


def command(*words: str | os.PathLike[str]) -> str:
    """A hornbook command that can be pasted into a shell."""
    return " ".join(map(quoted, ("hornbook", *words)))


# One slash as well: Path("https://...") drops the other.
# A colon after an address is the sentence's.
_URL = re.compile(
    r"""(\w[\w+.-]+:/{1,2})([^/\s?#]*@)?([^\s?#]*)([?#][^\s'")\]>]*?(?=:?(?:[\s'")\]>]|$)))?"""
)


def redacted(text: str) -> str:
    """The text, with user, password and query values removed from every URL.

    A secret can have any name in a query, so the whole query is removed.
    """

    def hide(url: re.Match[str]) -> str:
        scheme, user, location, query = url.groups()
        return scheme + ("***@" if user else "") + location + (f"{query[0]}***" if query else "")

    return _URL.sub(hide, text)


MAX_MESSAGE_CHARACTERS = 900


def for_terminal(message: str) -> str:
    """A message without control codes and secrets, and of limited length: it may quote anything."""
    message = redacted(message)
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = message[:MAX_MESSAGE_CHARACTERS] + " ..."
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
