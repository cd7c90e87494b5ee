"""Checks the answers to the lessons' exercises, and explains wrong ones.

An exercise (a table of lessons.toml) has its answer and the likely slips with their answers; each
slip has its own message in English and in Korean. Importing this module does not import torch.
"""

import difflib
import html
import importlib.resources
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from hornbook.errors import ConfigError
from hornbook.language import Language, choose_language, in_both, msg
from hornbook.learn import progress
from hornbook.learn.trials import TRIALS, Trial

# Two decimals are enough for an answer; whole numbers remain distinct.
TOLERANCE = 0.0051


class Both(NamedTuple):
    """A message in both languages."""

    en: str
    ko: str

    def within(self, frame: "Both", **parts: object) -> "Both":
        """A frame with this message in place of {message}."""
        return Both(
            frame.en.format(message=self.en, **parts), frame.ko.format(message=self.ko, **parts)
        )


@dataclass(frozen=True)
class Message:
    """A message to a learner, shown in one language."""

    language: Language
    messages: Both

    @property
    def message(self) -> str:
        """The message in the requested language."""
        return getattr(self.messages, self.language)

    def __repr__(self) -> str:
        return self.message

    def _repr_html_(self) -> str:
        """The message as HTML, with a hidden copy in the other language."""
        messages: dict[Language, str] = {"en": self.messages.en, "ko": self.messages.ko}
        return f'<p class="hornbook-verdict">{in_both(messages, self.language)}</p>'


@dataclass(frozen=True, repr=False)
class Verdict(Message):
    """Whether an answer is right, and the message about it."""

    correct: bool


class Slip(NamedTuple):
    """A likely wrong answer, and the reason why it is wrong."""

    answer: Any
    reason: Both


@dataclass(frozen=True)
class Exercise:
    """The right answer and the likely wrong ones: numbers, or nested lists of numbers.

    A `trial` turns a function into such numbers. The first of the hints, a nudge, also follows a
    wrong answer that no slip explains.
    """

    name: str
    answer: Any
    right: Both
    hints: tuple[Both, Both]
    slips: tuple[Slip, ...]
    trial: Trial | None = None


RIGHT = Both("Right. {message}", "맞아요. {message}")
WRONG = Both("Not yet. {message}", "아직이에요. {message}")
BLANK = Both("Put your answer where the dots are.", "점 세 개(...)가 있는 자리에 답을 넣어 보세요.")
HINT = Both("Hint {step}: {message}", "힌트 {step}: {message}")
LAST_HINT = Both("Hint {step}, the last: {message}", "힌트 {step}(마지막): {message}")
TOO_LARGE = Both("{given} is too large. {message}", "답은 {given}보다 작아요. {message}")
TOO_SMALL = Both("{given} is too small. {message}", "답은 {given}보다 커요. {message}")
ENTRY = Both(
    "The first wrong number is number {place}: {given}. {message}",
    "{place}번째 수({given})부터 답과 달라요. {message}",
)
CELL = Both(
    "The first wrong number is number {place} of row {row}: {given}. {message}",
    "{row}번째 행의 {place}번째 수({given})부터 답과 달라요. {message}",
)
SHAPE = Both(
    "The answer is {wanted}, and this is {given}. {message}",
    "답의 모양이 달라요(필요한 것: {wanted_ko}, 받은 것: {given_ko}). {message}",
)
NOT_A_NUMBER = Both(
    "{given} is not a number: look for 0/0, inf - inf, or the logarithm of a negative one. "
    "{message}",
    "{given}은 수가 아니에요. 0/0이나 inf - inf, 음수의 로그가 있는지 찾아보세요. {message}",
)
UNWRITTEN = Both(
    "Your function returns None: replace its dots by code that returns the answer.",
    "함수가 아무것도 돌려주지 않았어요(None). 점 세 개(...) 대신 "
    "답을 return하는 코드를 넣어 보세요.",
)
NO_FUNCTION = Both(
    "This exercise asks for a function: pass its name, without parentheses. {message}",
    "이 문제의 답은 함수예요. 괄호 없이 함수 이름만 넣어 보세요. {message}",
)
RAISED = Both(
    "Your function raised {error}. {message}", "함수에서 오류가 났어요({error}). {message}"
)
MORE = Both(
    '{message} Stuck? hint("{name}") helps.',
    '{message} 막히면 hint("{name}")를 실행해 보세요.',
)
TRIED = Both("Tried with {tried}. {message}", "시험한 값: {tried}. {message}")


def check(exercise: str, answer: Any, *, language: str | None = None) -> Verdict:
    """Check an answer; the result says whether it is right, or what is wrong.

    Arrays, tensors and tuples are treated as lists; `...` is an answer not yet given. `language` is
    "en" or "ko"; by default that of the environment (LANG).
    Raises: ConfigError for an unknown exercise or language.
    """
    chosen = choose_language(language)
    asked = find(exercise)
    correct, message = judge(asked, answer)
    if asked.hints[0].en in message.en:  # the next hint says more
        hints_given[exercise] = max(1, hints_given.get(exercise, 0))
    if correct and progress.in_notebook():
        progress.keep(exercise)
    return Verdict(chosen, message.within(RIGHT if correct else WRONG), correct)


def hint(exercise: str, *, language: str | None = None) -> Message:
    """The next hint for an exercise: each call goes a step further, up to the last.

    Raises: ConfigError for an unknown exercise or language.
    """
    chosen = choose_language(language)
    steps = find(exercise).hints
    given = hints_given.get(exercise, 0)
    hints_given[exercise] = given + 1
    step = min(given, len(steps) - 1)
    counted = HINT if step < len(steps) - 1 else LAST_HINT
    return Message(chosen, steps[step].within(counted, step=step + 1))


hints_given: dict[str, int] = {}


class Answers(dict[str, Any]):
    """Right answers. A notebook folds them away, so that running all cells gives none away."""

    def _repr_html_(self) -> str:
        summary = in_both({"en": "Show the answers", "ko": "풀이 보기"}, choose_language())
        lines = html.escape("\n".join(f"{name}: {answer!r}" for name, answer in self.items()))
        return (
            f'<details class="hornbook-answers"><summary>{summary}</summary>'
            f"<pre>{lines}</pre></details>"
        )


def reveal(answers: Mapping[str, Any]) -> Answers:
    """The right answers of a lesson, but for functions; they do not count as solved by you.

    Raises: ConfigError if one of them is not right.
    """
    for exercise, answer in answers.items():
        if not judge(find(exercise), answer)[0]:
            raise ConfigError(
                msg(
                    "{exercise}: expected the right answer, got {answer!r}",
                    exercise=exercise,
                    answer=answer,
                )
            )
    return Answers({name: answer for name, answer in answers.items() if not callable(answer)})


def find(name: str) -> Exercise:
    """The exercise of this name.

    Raises: ConfigError for an unknown name, with the closest known one.
    """
    table = tables()
    if name not in table:
        near = difflib.get_close_matches(str(name), table, n=1, cutoff=0.5)
        hint = msg("known: {names}", names=", ".join(table))
        if near:
            hint = msg("did you mean {near!r}?", near=near[0])
        raise ConfigError(msg("unknown exercise {name!r}; {hint}", name=name, hint=hint))
    found = table[name]
    trial = TRIALS[name]() if name in TRIALS else None

    def meant(answer: Any) -> Any:
        return trial.functions[answer] if trial else answer

    return Exercise(
        name=name,
        answer=meant(found["answer"]),
        right=Both(**found["right"]),
        hints=(Both(**found["nudge"]), Both(**found["hint"])),
        slips=tuple(
            Slip(meant(slip["answer"]), Both(slip["en"], slip["ko"])) for slip in found["slips"]
        ),
        trial=trial,
    )


@cache
def tables() -> dict[str, Any]:
    """lessons.toml: the exercises by name, in the order of the lessons."""
    source = importlib.resources.files("hornbook.learn") / "lessons.toml"
    return tomllib.loads(source.read_text(encoding="utf-8"))


def judge(exercise: Exercise, answer: Any) -> tuple[bool, Both]:
    """Whether an answer is right, and the message."""
    if answer is ...:
        return False, BLANK
    nudge = exercise.hints[0].within(MORE, name=exercise.name)
    if exercise.trial and not callable(answer):
        return False, nudge.within(NO_FUNCTION)
    if exercise.trial:
        nudge = nudge.within(TRIED, tried=exercise.trial.given)
    try:
        given = numbers(exercise, answer)
    except Exception as error:  # noqa: BLE001 - a learner's function may raise anything
        described = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return False, nudge.within(RAISED, error=described)
    wanted = numbers(exercise, exercise.answer)
    if same(given, wanted):
        return True, exercise.right
    for slip in exercise.slips:
        if same(given, numbers(exercise, slip.answer)):
            return False, slip.reason
    unwritten = given is None and exercise.trial
    return False, UNWRITTEN if unwritten else difference(given, wanted, nudge)


def numbers(exercise: Exercise, answer: Any) -> Any:
    """An answer as numbers in lists; a function is replaced by the result of its trial."""
    return plain(exercise.trial.run(answer) if exercise.trial else answer)


def plain(value: Any) -> Any:
    """Tensors, arrays and tuples as lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(map(plain, value)) if isinstance(value, (list, tuple)) else value


def same(one: Any, other: Any) -> bool:
    """Whether two answers have the same shape, and numbers equal within the tolerance."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return shape(one) == shape(other) == () and near(one, other)


def near(one: float, other: float) -> bool:
    """Whether two numbers are equal, also if infinite, or within the tolerance."""
    return one == other or abs(one - other) <= TOLERANCE


def shape(value: Any) -> tuple[int, ...] | None:
    """The lengths of nested lists of numbers, () for a number, None for anything else."""
    if not isinstance(value, list):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return () if is_number else None
    inner = {shape(part) for part in value}
    only = inner.pop() if len(inner) == 1 else None
    return None if only is None else (len(value), *only)


def flat(value: Any) -> list[float]:
    """All numbers of nested lists, in order."""
    return [leaf for part in value for leaf in flat(part)] if isinstance(value, list) else [value]


def difference(given: Any, wanted: Any, nudge: Both) -> Both:
    """Where an answer first differs from the right one, and a nudge; for no known slip."""
    if shape(given) != shape(wanted):
        is_, should_be = described(given), described(wanted)
        return nudge.within(
            SHAPE, given=is_.en, given_ko=is_.ko, wanted=should_be.en, wanted_ko=should_be.ko
        )
    if not isinstance(given, list):
        if given != given:  # noqa: PLR0124 - only nan differs from itself
            return nudge.within(NOT_A_NUMBER, given=given)
        return nudge.within(TOO_LARGE if given > wanted else TOO_SMALL, given=shown(given))
    pairs = enumerate(zip(flat(given), flat(wanted), strict=True))
    at, first = next((at, a) for at, (a, b) in pairs if not near(a, b))
    *rows, width = shape(wanted) or (1,)
    row, place = divmod(at, width)
    frame = CELL if rows else ENTRY
    return nudge.within(frame, row=row + 1, place=place + 1, given=shown(first))


def shown(number: float) -> str:
    """A number as people write it: 1,115,394 or 0.6931472."""
    return f"{number:,.7g}"


def described(value: Any) -> Both:
    """A description of an answer's shape."""
    sizes = shape(value)
    if isinstance(value, str):
        return Both(f"a string ({value!r:.40})", f"문자열({value!r:.40})")
    if sizes is None:
        return Both(f"something else ({value!r:.40})", f"다른 것({value!r:.40})")
    if not sizes:
        return Both("one number", "수 하나")
    if len(sizes) == 1:
        return Both(f"a list of {sizes[0]}", f"길이가 {sizes[0]}인 리스트")
    size = " x ".join(map(str, sizes))
    return Both(f"a table of {size}", f"{size} 크기의 표")
