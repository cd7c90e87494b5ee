"""The language that a command prints: `--lang`, else that of the environment."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hornbook.errors import ConfigError
from hornbook.language import LANGUAGES, Language, choose_language, msg, speaking

VARIABLE = "HORNBOOK_LANG"


@contextmanager
def in_its_language(arguments: Sequence[str]) -> Iterator[list[str]]:
    """The arguments without `--lang`, whose language everything has until the end of the block.

    Errors about the option itself are printed in the language of the environment.
    Raises: ConfigError where it has no language, or an unknown one.
    """
    found = list(arguments)
    own = found[: found.index("--")] if "--" in found else found[:]
    place = next((n for n, each in enumerate(own) if each.partition("=")[0] == "--lang"), None)
    before = os.environ.get(VARIABLE)
    if place is not None:
        _, equals, wanted = found.pop(place).partition("=")
        if not equals:
            if place == len(own) - 1:
                raise ConfigError(msg("--lang: expected language 'en' or 'ko'"))
            wanted = found.pop(place)
        if wanted not in LANGUAGES:
            wrong = msg("expected language 'en' or 'ko', got {language!r}", language=wanted)
            raise ConfigError(wrong)
        # Also for the processes that the command starts, and for the pages that it writes.
        os.environ[VARIABLE] = wanted
    try:
        with speaking(readable(choose_language())):
            yield found
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def readable(language: Language) -> Language:
    """The language, or English where stdout or stderr has an encoding that cannot show it."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if language == "ko":
                "한글".encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return "en"
    return language
