"""The languages that people are addressed in: English, and the Korean of `ko.po`."""

from hornbook.language.choice import LANGUAGES, Language, choose_language
from hornbook.language.messages import (
    Message,
    by_english,
    conjunction,
    current,
    in_both,
    joined,
    msg,
    speaking,
    template_in,
    tr,
    translated,
)

__all__ = [
    "LANGUAGES",
    "Language",
    "Message",
    "by_english",
    "choose_language",
    "conjunction",
    "current",
    "in_both",
    "joined",
    "msg",
    "speaking",
    "template_in",
    "tr",
    "translated",
]
