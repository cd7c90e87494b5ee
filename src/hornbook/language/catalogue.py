"""Catalogues of translations: .po files, read as they are, so that none has to be compiled."""

import ast
import re
from functools import cache
from importlib.resources import files

_LINE = re.compile(r'(?:(msgid|msgstr) )?(".*")$')


def one_line(text: str) -> str:
    """A message as a catalogue is asked for it: where its lines break makes no difference."""
    return " ".join(text.split())


def read_catalogue(text: str) -> dict[str, str]:
    """The translations in the text of a .po file, by what they translate."""
    messages: dict[str, str] = {}
    for entry in re.split(r"\n\n+", text):
        parts = {"msgid": "", "msgstr": ""}
        current = ""
        for line in entry.splitlines():
            if found := _LINE.match(line):
                current = found[1] or current
                parts[current] += ast.literal_eval(found[2])
        messages[parts["msgid"]] = parts["msgstr"]
    return messages


@cache
def korean() -> dict[str, str]:
    """The Korean of every message of the command line and the report card."""
    text = (files("hornbook.language") / "ko.po").read_text(encoding="utf-8")
    return {one_line(english): korean for english, korean in read_catalogue(text).items()}
