"""The exercises of the lessons, the message for each answer, and the form of the pages."""

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hornbook.errors import ConfigError
from hornbook.language import LANGUAGES
from hornbook.learn.lessons import check, find, hint, hints_given, reveal, tables

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted((DOCS / "lessons").glob("*.md"))
CATALOGUES = DOCS / "locale" / "ko" / "LC_MESSAGES"
EXERCISES = list(tables())
HANGUL = re.compile("[가-힣]")


# Computed again here, so that a mistyped figure in lessons.toml is found.
WORKED_OUT: dict[str, Any] = {
    "text-1": ["ehlo".index(letter) for letter in "hole"],
    "text-2": len("하늘".encode()),
    "text-3": 1_115_394 - int(0.9 * 1_115_394),
    "text-4": len({letter.upper() for letter in "abcdefghijklmnopqrstuvwxyz"}) + 65 - 2 * 26,
    "batch-1": 8,
    "batch-2": 4 * 8,
    "batch-3": len([start for start in range(100) if start + 8 <= 99]),
    "batch-5": [4 * 16, 16],
    "bigram-1": math.log(65),
    "bigram-2": (math.log(4) + math.log(2)) / 2,
    "bigram-3": [[1 / 4, 3 / 4], [1 / 2, 1 / 2]],
    "bigram-4": (3 * math.log(4 / 3) + math.log(4)) / 7,
    "bigram-5": 4.8786,
    "trick-1": [1 / 3, 1 / 3, 1 / 3, 0],
    "trick-2": [1 / 4, 3 / 4, 0, 0],
    "trick-4": (1e-8 + 1e-5 * 0.01) / 1e-8,
    "trick-5": (torch.ones(4, 4) / torch.ones(4, 4).sum(1, keepdim=True))[0].tolist(),
    "attention-1": 16,
    "attention-2": torch.tensor([2.0, 0.0]).softmax(0).tolist(),
    "attention-3": sum(range(1, 9)),
    "attention-5": 0,
    "block-1": 4 * 3 * 32 * 8,
    "block-2": (32 * 128 + 128) + (128 * 32 + 32),
    "block-3": torch.nn.functional.layer_norm(torch.tensor([1.0, 2, 3, 4]), [4]).tolist(),
    "block-5": [1, 2, 3, 4],
    "overfit-1": 1 / (1 - 0.2),
    "overfit-2": 300,
    "overfit-3": 2 * 2,
    "overfit-4": 0,
    "sample-1": torch.tensor([4.0, 2.0, 0.0]).softmax(0).tolist(),
    "sample-2": [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0],
    "sample-3": sum(range(1, 101)),
    "sample-4": (torch.tensor([2.0, 1, 0]) / 1000).softmax(0).tolist(),
    "today-1": math.cos(0.1 * (5 - 3)),
    "today-2": [3 / 2.5, 4 / 2.5, 0, 0],
    "today-3": 2 * 4 * 384 / 3,
    "today-4": [1, 1, 1],
    "today-5": math.cos(0.1 * (105 - 103)),
    "own-1": len("\u110b\u116a\u11bb"),
    "own-2": 4 * 3 + 1,
    "own-3": 1.2 * 2.4,
    "own-4": 1,
    "count-1": math.log2(8),
    "count-2": 100 * 1.5 / math.log(2) / 8,
    "count-3": 0.3,
    "count-4": 0,
    "pretrained-1": 3.2 / 4,
    "pretrained-2": 100 * 4 + 4 * 200,
    "pretrained-3": 4 * 4 * 0.135,
    "pretrained-4": 0,
    "ranks-1": len(range(64)[3::4]),
    "ranks-2": np.mean([0.4, -0.8, 1.0]),
    "ranks-3": np.mean([2.0, 2.0, 2.0, 4.0]),
    "ranks-4": 2 * (100 - 100 / 5),
    "ranks-5": 1,
}


@pytest.mark.parametrize("name", WORKED_OUT)
def test_an_answer_worked_out_is_right(name: str) -> None:
    answer = WORKED_OUT[name]
    assert check(name, answer).correct
    assert check(name, torch.tensor(answer)).correct
    assert check(name, np.round(answer, 2)).correct


def test_every_exercise_without_a_function_is_worked_out_here() -> None:
    assert [name for name in EXERCISES if find(name).trial is None] == list(WORKED_OUT)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", EXERCISES)
def test_every_answer_gets_its_own_message(name: str, language: str) -> None:
    exercise = find(name)
    right = check(name, exercise.answer, language=language)
    assert right.correct
    assert right.message.endswith(getattr(exercise.right, language))
    messages = {right.message}
    for slip in exercise.slips:
        verdict = check(name, slip.answer, language=language)
        assert not verdict.correct
        assert verdict.message.endswith(getattr(slip.reason, language))
        messages.add(verdict.message)
    assert len(messages) == len(exercise.slips) + 1
    assert len(exercise.slips) >= 2


@pytest.mark.parametrize("name", EXERCISES)
def test_korean_messages_are_korean_and_polite(name: str) -> None:
    exercise = find(name)
    for both in (exercise.right, *exercise.hints, *(slip.reason for slip in exercise.slips)):
        assert HANGUL.search(both.ko)
        assert not HANGUL.search(re.sub("[ㄱ-ㅣ]", "", both.en).replace("하늘", ""))
        assert re.search(r"(요|세요|까요)[.?]$", both.ko), both.ko


def test_the_message_for_an_unknown_slip_names_the_first_difference() -> None:
    assert check("bigram-1", 5.0).message.startswith("Not yet. 5 is too large. ")
    assert check("bigram-1", 3).message.startswith("Not yet. 3 is too small. ")
    assert "1,115,394 is too large" in check("text-3", 1_115_394).message
    entry = check("trick-2", [0.25, 0.5, 0, 0.25]).message
    assert "number 2: 0.5" in entry
    cell = check("bigram-3", [[0.25, 0.75], [0.4, 0.6]]).message
    assert "number 1 of row 2: 0.4" in cell
    tried = check("batch-4", lambda tokens, start, size: (tokens[:size], tokens[1 : size + 1]))
    assert "number 1 of row 1: 100. Tried with tokens = list(range(100, 120))" in tried.message
    assert (
        "The answer is a list of 4, and this is a list of 3" in check("trick-1", [1, 2, 3]).message
    )
    assert "a table of 2 x 2, and this is one number" in check("bigram-3", 1).message
    assert "one number, and this is a string ('4.17')" in check("bigram-1", "4.17").message
    for answer in (True, None, float("nan"), [[1, 2], [3]], object()):
        verdict = check("bigram-1", answer)
        assert not verdict.correct
        nudge, last = find("bigram-1").hints
        assert verdict.message.endswith(f'{nudge.en} Stuck? hint("bigram-1") helps.')
        assert last.en not in verdict.message


def test_an_answer_not_yet_given_is_asked_for() -> None:
    assert check("bigram-1", ...).message == "Not yet. Put your answer where the dots are."


def test_what_is_no_number_is_neither_too_small_nor_too_large() -> None:
    assert "nan is not a number" in check("bigram-1", float("nan")).message
    for answer in (float("inf"), -float("inf")):
        assert "too" in check("bigram-1", answer).message


def test_a_function_that_is_not_written_yet_is_asked_for() -> None:
    def unwritten(*_: object) -> None: ...

    for name in EXERCISES:
        if find(name).trial:
            assert "returns None" in check(name, unwritten).message


@pytest.mark.parametrize("name", EXERCISES)
def test_hints_go_step_by_step_and_stay_at_the_last(name: str) -> None:
    hints_given.clear()
    nudge, last = find(name).hints
    assert hint(name).message == f"Hint 1: {nudge.en}"
    assert hint(name, language="ko").message == f"힌트 2(마지막): {last.ko}"
    assert hint(name).message == f"Hint 2, the last: {last.en}"


def test_a_nudge_that_a_wrong_answer_got_is_not_repeated_as_a_hint() -> None:
    hints_given.clear()
    nudge, last = find("text-2").hints
    assert nudge.en in check("text-2", 7).message
    assert hint("text-2").message == f"Hint 2, the last: {last.en}"


def test_the_answers_of_a_lesson_are_revealed_only_if_they_are_right() -> None:
    def window(tokens: list[int], at: int, size: int) -> tuple[list[int], list[int]]:
        return tokens[at : at + size], tokens[at + 1 : at + size + 1]

    revealed = reveal({"text-2": 6, "batch-4": window})
    assert revealed == {"text-2": 6}
    assert revealed._repr_html_().startswith('<details class="hornbook-answers"><summary>')
    with pytest.raises(ConfigError, match="text-2: expected the right answer, got 7"):
        reveal({"text-2": 7})


def test_a_function_is_asked_for_and_tested_and_its_error_shown() -> None:
    assert "asks for a function" in check("trick-3", [1.0]).message

    def broken(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("no\nsecond line")

    message = check("trick-3", broken).message
    assert "Your function raised ValueError: no. Tried with x = torch.tensor([[1.0, 8]," in message
    assert "second line" not in message
    assert check(
        "trick-3", lambda x: torch.stack([x[: t + 1].mean(0) for t in range(len(x))])
    ).correct


def test_an_unknown_exercise_is_named_with_the_closest_one() -> None:
    with pytest.raises(
        ConfigError, match=r"^unknown exercise 'bigran-1'; did you mean 'bigram-1'\?$"
    ):
        check("bigran-1", 0)
    with pytest.raises(ConfigError, match=r"^unknown exercise 'x'; known: text-1, "):
        check("x", 0)


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected language 'en' or 'ko', got 'de'"):
        check("bigram-1", 0, language="de")


def test_a_verdict_shows_its_message_and_hides_the_other_language_in_a_notebook() -> None:
    verdict = check("trick-4", 1, language="ko")
    assert repr(verdict) == verdict.message == verdict.messages.ko
    html = verdict._repr_html_()
    assert '<span lang="ko">아직이에요.' in html
    assert '<span lang="en" hidden>Not yet.' in html
    assert "&lt;" in check("text-1", "<b>", language="en")._repr_html_()


def test_importing_the_checker_does_not_import_torch() -> None:
    code = (
        "import sys; from hornbook.learn.lessons import check; "
        "check('bigram-1', 4.17); print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_there_are_thirteen_lessons() -> None:
    assert [page.name[:3] for page in PAGES] == [f"{number:02}-" for number in range(1, 14)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_states_what_it_assumes_and_shows_and_ends_with_exercises(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^# \d+\. ", text, re.MULTILINE)) == 1
    assert re.search(r"^\*\*Assumes:\*\* .", text, re.MULTILINE)
    assert re.search(r"^\*\*Shows:\*\* .* About [a-z-]+ minutes\.$", text, re.MULTILINE)
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert headings[-1] == "Exercises"
    exercises = text.split("## Exercises")[1]
    questions = re.findall(r"^\d\. (.*)", exercises, re.MULTILINE)
    assert len(questions) >= 4
    assert sum(question.startswith("Change this and predict: ") for question in questions) == 1


def test_every_lesson_has_what_its_exercises_are_answered_with() -> None:
    for page in PAGES:
        exercises = page.read_text(encoding="utf-8").split("## Exercises")[1]
        assert "\nfrom hornbook.learn import check, hint, reveal\n" in exercises, page


def test_pages_and_checker_have_the_same_exercises_in_the_same_order() -> None:
    asked: list[str] = []
    solved: list[str] = []
    for page in PAGES:
        exercises = page.read_text(encoding="utf-8").split("## Exercises")[1]
        asked += re.findall(r'^check\("([a-z]+-\d)"', exercises, re.MULTILINE)
        solved += re.findall(r'^    "([a-z]+-\d)": ', exercises, re.MULTILINE)
    assert asked == EXERCISES
    assert solved == EXERCISES


def entries(catalogue: Path) -> list[tuple[str, str, bool]]:
    """The messages of a .po file: source, translation, whether the translation is in doubt."""
    found: list[tuple[str, str, bool]] = []
    for block in re.split(r"\n\n+", catalogue.read_text(encoding="utf-8")):
        lines = [line for line in block.splitlines() if not line.startswith("#~")]
        fuzzy = any(line.startswith("#,") and "fuzzy" in line for line in lines)
        parts: dict[str, str] = {"msgid": "", "msgstr": ""}
        current = ""
        for line in lines:
            if match := re.match(r'(msgid|msgstr) "(.*)"$', line):
                current = match[1]
                parts[current] += match[2]
            elif current and (match := re.match(r'"(.*)"$', line)):
                parts[current] += match[1]
        if parts["msgid"]:
            found.append((parts["msgid"], parts["msgstr"], fuzzy))
    return found


def sentences(page: Path) -> list[str]:
    """What gettext takes from a page: headings, paragraphs, list items, words for pictures."""
    text = re.sub(r"\A---\n.*?\n---\n", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    pictures = re.findall(r"^    alt: (.*)", text, re.MULTILINE)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    blocks = re.split(r"\n\s*\n|\n(?=- |\d\. )", prose)
    taken = (re.sub(r"^(#+|-|\d\.) ", "", " ".join(block.split())) for block in blocks)
    return [block for block in taken if block and not block.startswith("%")] + pictures


@pytest.mark.parametrize(
    "page", [DOCS / "index.md", DOCS / "report.md", *PAGES], ids=lambda page: page.stem
)
def test_every_sentence_is_translated(page: Path) -> None:
    known = entries(CATALOGUES / page.relative_to(DOCS).with_suffix(".po"))
    assert [source for source, translation, fuzzy in known if fuzzy or not translation] == []
    sources = {source.replace('\\"', '"') for source, _, _ in known}
    assert [each for each in sentences(page) if each not in sources] == []
