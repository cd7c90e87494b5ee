"""Every error hornbook raises on purpose, in one family.

Each message says what was expected, what came, and what to do, on one line where it can. The
command line prints the message and exits with ``exit_code``: 2 when the request was wrong, 1 when
it could not be carried out, 3 when training itself broke down.
"""

import os
import re


class HornbookError(Exception):
    """Root of the family; catch this to catch them all."""

    exit_code = 1


class ConfigError(HornbookError):
    """A setting that is unknown, of the wrong type, out of range, or at odds with another."""

    exit_code = 2


class DataError(HornbookError):
    """A text that cannot be read, or cannot be learned from."""


class UnknownCharacterError(DataError):
    """A character the tokenizer has never seen."""


class CheckpointError(HornbookError):
    """A run folder or checkpoint that is missing, incomplete or damaged."""


class NonFiniteLossError(HornbookError):
    """The loss or a gradient became NaN or infinite; training stopped before the update."""

    exit_code = 3


class HornbookWarning(UserWarning):
    """What the user should know and need not stop for; the command line gives each a line."""

    label = "note"


def reason(error: BaseException) -> str:
    """What an error says, on one line; its class's name where it says nothing."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return redacted(" ".join(str(text).split()))


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message of one line: escaped where it could break it, shortened if long."""
    text = redacted(os.fspath(path))
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 200 else f"{text[:150]}...{text[-45:]}"


# One slash too: a path made of an address has lost the other.
_URL = re.compile(r"""(\w[\w+.-]+:/{1,2})([^/\s?#]*@)?([^\s?#]*)([?#][^\s'")\]>]*)?""")


def redacted(text: str) -> str:
    """The same text, but in every URL without the user, the password and the query's values.

    A token can go by any name in a query, so none of it is shown or kept.
    """

    def hide(url: re.Match[str]) -> str:
        scheme, user, place, query = url.groups()
        return scheme + ("***@" if user else "") + place + (f"{query[0]}***" if query else "")

    return _URL.sub(hide, text)


LONGEST_MESSAGE = 900


def for_terminal(message: str) -> str:
    """A message without control codes, secrets or endless lines, whoever wrote what it quotes."""
    message = redacted(message)
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + " ..."
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
