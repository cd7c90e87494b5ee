"""The Korean catalogue has a translation of every message, and nothing else."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import docstring_parser
import pytest

import hornbook
from hornbook.cli import app
from hornbook.cli.help import MISTAKES
from hornbook.cli.texts import TextOptions
from hornbook.language.catalogue import one_line, read_catalogue

SOURCE = Path(hornbook.__file__).parent
CATALOGUE = (SOURCE / "language" / "ko.po").read_text(encoding="utf-8")
# They are given a template, and pass it on.
PASSING_ON = {"language/messages.py", "cli/help.py"}


# Names and units that only the Korean spells out.
ADDED = {"best", "gram", "BOM", "CPU", "GPU", "id"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of `msg` and `tr` in the package, with its file."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if called and node.func.id in ("msg", "tr"):
                yield path.relative_to(SOURCE).as_posix(), node


def templates() -> Iterator[str]:
    """The message of each call."""
    for _, call in calls():
        if isinstance(call.args[0], ast.Constant):
            yield str(call.args[0].value)


def helps() -> Iterator[str]:
    """Every paragraph of help, as cyclopts reads it from the docstrings."""
    yield app.help
    docstrings = [TextOptions.__doc__]
    for name in app:
        command = app[name]
        yield command.help
        if not name.startswith("-"):
            docstrings.append(command.default_command.__doc__)
    for docstring in docstrings:
        read = docstring_parser.parse(docstring)
        if docstring is not TextOptions.__doc__:
            yield read.short_description
            yield from (read.long_description or "").split("\n\n")
        for parameter in read.params:
            yield parameter.description


def fields(template: str) -> Counter[tuple[str, str, str]]:
    """The placeholders of a template, with how each is formatted."""
    parts = Formatter().parse(template)
    return Counter(
        (name, spec or "", how or "") for _, name, spec, how in parts if name is not None
    )


@pytest.fixture(scope="module")
def korean() -> dict[str, str]:
    """The translations by what they translate, without the header."""
    found = read_catalogue(CATALOGUE)
    return {key: value for key, value in found.items() if key}


def used() -> set[str]:
    """Everything that is translated anywhere, as the catalogue is asked for it."""
    return {one_line(each) for each in (*templates(), *helps(), *MISTAKES) if each.strip()}


def test_every_message_is_written_out_with_what_it_is_filled_with() -> None:
    for path, call in calls():
        template = call.args[0]
        if not isinstance(template, ast.Constant):
            assert path in PASSING_ON, f"{path}:{call.lineno}: a message is a string as it stands"
            continue
        given = {keyword.arg for keyword in call.keywords}
        if None not in given:
            assert {name for name, _, _ in fields(template.value)} == given, f"{path}:{call.lineno}"


def test_every_message_is_translated_and_every_translation_is_used(korean: dict[str, str]) -> None:
    missing = used() - {each for each, translation in korean.items() if translation}
    assert not missing, "these messages have no translation in language/ko.po"
    stale = set(korean) - used()
    assert not stale, "nothing has these messages any more"
    assert CATALOGUE.count("\nmsgid ") == len(korean) + 1, "a message is in the catalogue twice"


def test_translations_have_the_placeholders_of_their_messages(korean: dict[str, str]) -> None:
    for message, translation in korean.items():
        if "{" not in message:  # help is no template
            continue
        assert fields(translation) == fields(message), translation
        assert translation == translation.strip(), translation


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (r"니다[.!?]|한다\.|이다\.|해라\.", "the style is 해요체 throughout"),
        (
            r"\{\w+(?:![rsa])?(?::[^}%]*)?\}(?:은|는|이|가|을|를|과|와|으로|로|이에요|예요)(?![가-힣])",
            "a particle after a value depends on how the value ends",
        ),
        (r"의견|설명서|갓 태어난|작은 장난감|큰길|손잡이|글쓰기", "the words of the lessons"),
    ],
    ids=["style", "particles", "words"],
)
def test_the_korean_reads_well(korean: dict[str, str], wrong: str, why: str) -> None:
    found = [each for each in korean.values() if re.search(wrong, each)]
    assert not found, why


def test_the_korean_is_korean(korean: dict[str, str]) -> None:
    # A word of Latin letters is a name, an option or a value, and stands in the English too.
    for message, translation in korean.items():
        words = set(re.findall(r"[A-Za-z]{2,}", re.sub(r"\{.*?\}", "", translation)))
        assert words <= set(re.findall(r"[A-Za-z]{2,}", message)) | ADDED, translation
