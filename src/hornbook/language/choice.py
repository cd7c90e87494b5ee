"""The languages that people are addressed in, and which of them is wanted."""

import os
from collections.abc import Mapping
from typing import Literal

from hornbook.errors import ConfigError

Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = ("en", "ko")


def choose_language(
    language: str | None = None, environment: Mapping[str, str] | None = None
) -> Language:
    """The requested language, or that of the environment: Korean, else English.

    Raises: ConfigError if the requested language is unknown.
    """
    if language is None:
        variables = os.environ if environment is None else environment
        locales = (
            variables.get(name) for name in ("HORNBOOK_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
        )
        return "ko" if next(filter(None, locales), "").startswith("ko") else "en"
    for known in LANGUAGES:
        if language == known:
            return known
    raise ConfigError(f"expected language 'en' or 'ko', got {language!r}")
