"""Messages: English where they are made, translated where they are shown; and which language."""

import copy
import json
import pickle
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.errors import ConfigError, reason
from hornbook.language import (
    Message,
    choose_language,
    conjunction,
    current,
    joined,
    msg,
    speaking,
    tr,
    translated,
)


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "en_GB.UTF-8", "LC_ALL": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "C", "LC_MESSAGES": "ko"}, "en"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": ""}, "ko"),
        ({"LC_ALL": "en_GB.UTF-8", "HORNBOOK_LANG": "ko"}, "ko"),
    ],
)
def test_the_language_is_the_environment_s(environment: dict[str, str], language: str) -> None:
    assert choose_language(None, environment) == language
    assert choose_language("en", environment) == "en"


def test_a_message_is_its_english_until_it_is_shown() -> None:
    message = msg("at step {step:,}", step=1234)
    assert message == "at step 1,234"
    assert json.dumps(message) == '"at step 1,234"'
    assert translated(message) == "at step 1,234"
    assert translated(message, "ko") == "1,234스텝부터"
    assert translated("at step 1,234", "ko") == "at step 1,234"  # no message: as it is
    assert translated(msg("nobody has translated {this}", this="it"), "ko").endswith("it")


def test_what_a_message_is_made_of_is_translated_with_it() -> None:
    kept = msg("{first} and {second}", first=msg("uniform guess"), second="a {brace}")
    assert kept == "uniform guess and a {brace}"
    assert translated(kept, "ko") == "균등 추측, a {brace}"
    error = ConfigError(msg("{name}: report card", name=kept))
    assert str(error) == "uniform guess and a {brace}: report card"
    assert translated(error, "ko") == "균등 추측, a {brace}: 성적표"
    about = msg("cannot read {path}: {why}", path="x", why=error)
    assert about == "cannot read x: uniform guess and a {brace}: report card"
    assert translated(about, "ko") == "x: 읽을 수 없어요. 균등 추측, a {brace}: 성적표"
    assert translated(joined(" ", (msg("done"), 3, "x")), "ko") == "다 배움 3 x"
    assert translated(OSError(2, "no such file"), "ko") == "[Errno 2] no such file"


def test_what_another_error_says_is_translated_where_it_has_a_translation() -> None:
    gone = reason(FileNotFoundError(2, "No such file or directory", "x"))
    about = msg("{path}: cannot be read: {why}", path="x", why=gone)
    assert about == "x: cannot be read: No such file or directory"
    for each in (about, copy.deepcopy(about), pickle.loads(pickle.dumps(about))):
        assert translated(each, "ko") == "x: 읽을 수 없어요: 그런 파일이나 폴더가 없어요"
    inner = reason(ValueError(msg("{first} and {second}", first="a\nb", second="https://u:p@h/x")))
    assert inner == "a b and https://***@h/x"
    assert translated(inner, "ko") == "a b, https://***@h/x"
    assert translated(reason(OSError(5, msg("uniform guess"))), "ko") == "균등 추측"
    assert translated(reason(ValueError("a\nb")), "ko") == "a b"
    assert reason(ValueError("abcdef"), 3) == "abc"
    assert reason(KeyError()) == "KeyError"


def test_words_are_joined_by_and_and_each_is_translated() -> None:
    assert conjunction(["a", msg("uniform guess"), "c"]) == "a and uniform guess and c"
    assert translated(conjunction(["a", msg("uniform guess"), "c"]), "ko") == "a, 균등 추측, c"
    assert conjunction(["a"]) == "a"


def test_spaces_around_a_message_stay() -> None:
    assert translated(msg(" (did you mean {near}?)", near="x"), "ko") == " (혹시 x인가요?)"


@dataclass(frozen=True)
class Holder:
    """A message in a dataclass, as plans and diagnoses have them."""

    why: str


def test_a_copy_is_still_a_message() -> None:
    message = msg("{first} and {second}", first=msg("done"), second="{b}")
    for each in (
        copy.deepcopy(message),
        pickle.loads(pickle.dumps(message)),
        asdict(Holder(message))["why"],
    ):
        assert isinstance(each, Message)
        assert each == message
        assert translated(each, "ko") == "다 배움, {b}"


@given(st.text(), st.integers(), st.floats(allow_nan=False))
def test_english_is_what_format_gives(text: str, number: int, share: float) -> None:
    template = "{text!r} of {number:,}: {share:.1%} ({text})"
    values = {"text": text, "number": number, "share": share}
    assert msg(template, **values) == template.format(**values)
    assert translated(msg(template, **values), "ko") == template.format(**values)


def test_a_language_lasts_until_the_end_of_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORNBOOK_LANG", "ko")
    assert tr("uniform guess") == "균등 추측"
    with speaking("en"):
        assert tr("uniform guess") == "uniform guess"
        with speaking("ko"):
            assert current() == "ko"
        assert current() == "en"
    assert current() == "ko"
