"""Messages that are English where they are made, and translated where they are shown.

A message is made far from the terminal: in an error, in a plan's reasons, in a diagnosis. It goes
into JSON and files as the English string that it is, and `translated` gives its Korean.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce
from html import escape

from hornbook.errors import Reason, redacted
from hornbook.language.catalogue import korean, one_line
from hornbook.language.choice import LANGUAGES, Language, choose_language

_current: ContextVar[Language | None] = ContextVar("hornbook_language", default=None)


class Message(str):
    """English text with the template and the values that it was made of.

    Values that are messages or errors themselves are translated with it.
    """

    template: str
    values: Mapping[str, object]

    def __new__(cls, template: str, /, **values: object) -> "Message":
        """Format a template as `str.format` does."""
        made = super().__new__(cls, template.format(**values))
        made.template, made.values = template, values
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, object]]:
        """What a copy is made of."""
        return (self.template,), dict(self.values)


def msg(template: str, /, **values: object) -> Message:
    """A message to be translated where it is shown; its template is a key of the catalogue."""
    return Message(template, **values)


def by_english(*messages: Message) -> dict[str, Message]:
    """Messages by their English, where data have names in English."""
    return {str(message): message for message in messages}


def joined(separator: str, parts: Iterable[object]) -> Message:
    """Messages as one, each translated by itself."""
    values = {f"part{number}": part for number, part in enumerate(parts)}
    return Message(separator.join(f"{{{name}}}" for name in values), **values)


def conjunction(parts: Iterable[str]) -> str:
    """Words as one, with "and" between them."""
    return reduce(
        lambda first, second: msg("{first} and {second}", first=first, second=second), parts
    )


def translated(message: object, language: Language | None = None) -> str:
    """A message, or that of an error, in a language; by default in the `current` one.

    Other text, and what has no translation, stays as it is.
    """
    if isinstance(message, Reason):
        said = translated(SYSTEM.get(message.said, message.said), language)
        return str(message) if said == message.said else redacted(" ".join(said.split()))
    if isinstance(message, BaseException) and message.args:
        first = message.args[0]
        message = first if isinstance(first, Message) else message
    if not isinstance(message, Message) or (language or current()) == "en":
        return str(message)
    template = template_in("ko", message.template)
    values = {
        name: translated(value, language) if isinstance(value, (str, BaseException)) else value
        for name, value in message.values.items()
    }
    return template.format(**values)


def template_in(language: Language, template: str) -> str:
    """The template of a message in a language, with the white space around it; else as it is."""
    found = "" if language == "en" else korean().get(one_line(template), "")
    if not found:
        return template
    first, last = len(template) - len(template.lstrip()), len(template.rstrip())
    return template[:first] + found + template[last:]


def tr(template: str, /, **values: object) -> str:
    """A message in the current language."""
    return translated(Message(template, **values))


def in_both(texts: Mapping[Language, str], shown: Language) -> str:
    """Text as HTML in both languages, of which one is hidden.

    Notebooks run once and are published in both; each page's style shows its own language.
    """
    lines = (
        f'<span lang="{language}"{"" if language == shown else " hidden"}>'
        f"{escape(texts[language], quote=False)}</span>"
        for language in LANGUAGES
    )
    return "".join(lines)


def current() -> Language:
    """The language of what is shown now."""
    return _current.get() or choose_language()


# What Linux and macOS say of files and connections.
SYSTEM = by_english(
    msg("Address already in use"),
    msg("Cannot allocate memory"),
    msg("Connection refused"),
    msg("Connection reset by peer"),
    msg("Device or resource busy"),
    msg("Directory not empty"),
    msg("Disk quota exceeded"),
    msg("File exists"),
    msg("File name too long"),
    msg("File too large"),
    msg("Input/output error"),
    msg("Invalid cross-device link"),
    msg("Is a directory"),
    msg("No such file or directory"),
    msg("No space left on device"),
    msg("Not a directory"),
    msg("Operation not permitted"),
    msg("Permission denied"),
    msg("Read-only file system"),
    msg("Stale file handle"),
    msg("Too many levels of symbolic links"),
    msg("Too many open files"),
)


@contextmanager
def speaking(language: Language) -> Iterator[None]:
    """Show everything in one language until the end of the block."""
    token = _current.set(language)
    try:
        yield
    finally:
        _current.reset(token)
