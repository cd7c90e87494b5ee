"""Things to touch in the lessons: small pieces of HTML that need no server.

    from hornbook.learn import touch
    touch("softmax", names=["a", "b", "c"], logits=[2, 1, 0])

Each shows a picture in both languages; where scripts run, widgets.js puts its sliders and buttons
in the picture's place. Importing this module does not import torch.
"""

import importlib.resources
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

from hornbook.errors import ConfigError
from hornbook.language import LANGUAGES, Language, choose_language, msg
from hornbook.learn.sheet import Sheet

if TYPE_CHECKING:
    from hornbook.text.tokenizer import BPETokenizer, CharTokenizer


@dataclass(frozen=True)
class Widget:
    """Something to touch: its kind, what its script is given, and its picture without scripts."""

    kind: str
    props: dict[str, Any]
    picture: Callable[[Language], str]
    language: Language

    def __repr__(self) -> str:
        return f"<{self.kind}: shown in notebooks and on the site>"

    def _repr_html_(self) -> str:
        pictures = "".join(
            f'<div class="hornbook-drawing" style="overflow-x:auto" lang="{language}"'
            f"{'' if language == self.language else ' hidden'}>{self.picture(language)}</div>"
            for language in LANGUAGES
        )
        props = escape(json.dumps(self.props, ensure_ascii=False))
        return (
            f'<div class="hornbook-touch" data-kind="{self.kind}" data-props="{props}">{pictures}'
            f"</div><style>{part('widgets.css')}</style>"
            f"<script>(() => {{{part('widgets.js')}}})();</script>"
        )


@cache
def part(name: str) -> str:
    """The script or the style of all widgets."""
    return (importlib.resources.files("hornbook.learn") / name).read_text(encoding="utf-8")


def visible(token: str) -> str:
    """A token with its white space made visible."""
    return token.replace(" ", "␣").replace("\n", "⏎")


def plain(values: Any) -> Any:
    """Tensors and arrays as lists, rounded to four digits: a page needs no more."""
    values = values.tolist() if hasattr(values, "tolist") else values
    return [plain(value) for value in values] if isinstance(values, list) else round(values, 4)


def softmax(values: Sequence[float]) -> list[float]:
    """Probabilities of logits."""
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def bars(names: Sequence[str], values: Sequence[float]) -> Callable[[Language], str]:
    """A picture of probabilities; the bars begin at zero."""

    def picture(language: Language) -> str:
        sheet = Sheet(language, 26 * len(names) + 10)
        for number, (name, value) in enumerate(zip(names, values, strict=True)):
            y = 6 + 26 * number
            sheet.text(70, y + 10, name, at="end", mono=True)
            sheet.box(80, y, max(460 * value, 0.5), 20, hue="blue", strength=0.5)
            sheet.text(610, y + 10, f"{value:.3f}", at="end")
        words = ", ".join(f"{n} {v:.3f}" for n, v in zip(names, values, strict=True))
        return sheet.svg(f"{sheet.say('Bars', '막대')}: {words}")

    return picture


def touch(kind: str, *, language: str | None = None, **given: Any) -> Widget:
    """Something to touch.

    "softmax" and "sampling" take `names` and `logits`, [V]; "averages" `x`, [T]; "attention"
    `names` and `weights`, [T,T]; "tokenizer" a `text`, `characters` and `pairs`, two tokenizers.
    Raises: ConfigError for an unknown kind or language, and where something is missing.
    """
    if kind not in KINDS:
        raise ConfigError(
            msg("unknown widget {kind!r}; known: {known}", kind=kind, known=", ".join(KINDS))
        )
    try:
        props, picture = KINDS[kind](**given)
    except TypeError as error:
        raise ConfigError(msg("touch({kind!r}): {error}", kind=kind, error=error)) from None
    return Widget(kind, props, picture, choose_language(language))


Made = tuple[dict[str, Any], Callable[[Language], str]]


def distribution(*, names: Sequence[str], logits: Any) -> Made:
    """Logits by name."""
    shown, values = [visible(name) for name in names], plain(logits)
    return {"names": shown, "logits": values}, bars(shown, softmax(values))


def averages(*, x: Any) -> Made:
    """Numbers in a row, and the weights of their averages."""
    values = plain(x)

    def picture(language: Language) -> str:
        size = len(values)
        sheet = Sheet(language, 44 * size + 8)
        for i in range(size):
            for j in range(size):
                weight = 1 / (i + 1) if j <= i else 0.0
                sheet.box(
                    80 * j + 6,
                    44 * i + 4,
                    76,
                    40,
                    f"{weight:.2f}",
                    hue="blue",
                    strength=0.5 * weight,
                )
            mean = sum(values[: i + 1]) / (i + 1)
            sheet.text(80 * size + 30, 44 * i + 24, f"→ {mean:.2f}", at="start")
        return sheet.svg(
            sheet.say("The weights of the mean of the past", "과거의 평균을 내는 가중치")
        )

    return {"x": values}, picture


def attention(*, names: Sequence[str], weights: Any) -> Made:
    """Weights of attention, a row for each position that attends."""
    shown, rows = [visible(name) for name in names], plain(weights)
    return {"names": shown, "weights": rows}, bars(shown, rows[-1])


def tokens(*, text: str, characters: "CharTokenizer", pairs: "BPETokenizer") -> Made:
    """A text in the tokens of two tokenizers, and in bytes."""
    by_id = pairs.token_bytes()
    model = json.loads(pairs.to_json())["model"]
    merges = [
        " ".join(by_id[model["vocab"][token]].hex() for token in pair) for pair in model["merges"]
    ]
    known = [characters.decode([token]) for token in range(characters.vocab_size)]

    def picture(language: Language) -> str:
        sheet = Sheet(language, 96)
        for row, parts in enumerate(
            (list(text), [pairs.decode([token]) for token in pairs.encode(text)])
        ):
            x = 8.0
            for part in parts:
                width = 14 + 9.0 * len(part)
                sheet.box(x, 8 + 44 * row, width, 34, visible(part), size=15, mono=True)
                x += width + 3
        return sheet.svg(
            sheet.say("A text in characters and in byte pairs", "글자와 바이트 쌍으로 나눈 텍스트")
        )

    return {"text": text, "characters": known, "merges": merges}, picture


KINDS: dict[str, Callable[..., Made]] = {
    "softmax": distribution,
    "sampling": distribution,
    "averages": averages,
    "attention": attention,
    "tokenizer": tokens,
}
