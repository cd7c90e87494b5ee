"""Drawings for the lessons: SVG in either language.

    from hornbook.learn import draw
    draw("shifted")

Importing this module does not import torch.
"""

import importlib.resources
import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hornbook.errors import ConfigError
from hornbook.language import LANGUAGES, Language, choose_language, msg
from hornbook.learn.sheet import WIDTH, Sheet


def cells(
    sheet: Sheet, x: float, y: float, words: Sequence[str], *, hue: str, side: float = 40
) -> None:
    """A row of tokens."""
    for number, word in enumerate(words):
        sheet.box(x + number * (side + 4), y, side, side, word, hue=hue, size=17, mono=True)


def shifted(sheet: Sheet) -> None:
    """Targets are the inputs shifted by one."""
    letters = "First Cit"
    cells(sheet, 110, 20, [letter.replace(" ", "␣") for letter in letters[:8]], hue="blue")
    cells(sheet, 110, 120, [letter.replace(" ", "␣") for letter in letters[1:]], hue="orange")
    sheet.text(98, 40, sheet.say("inputs x", "입력 x"), at="end")
    sheet.text(98, 140, sheet.say("targets y", "정답 y"), at="end")
    for number in range(8):
        x = 130 + 44 * number
        sheet.arrow(x, 63, x, 117, hue="green")
        if number:
            sheet.line([(x, 62), (x - 44, 118)], hue="gray")
    sheet.text(550, 40, sheet.say("8 contexts", "문맥 8개"), size=13)
    sheet.text(550, 140, sheet.say("8 answers", "정답 8개"), size=13)


def merges(sheet: Sheet) -> None:
    """Byte-pair encoding merges the most frequent pair, again and again."""
    steps = [
        (list("low␣lower␣lowest"), sheet.say("letters", "글자")),
        (["lo", "w", "␣", "lo", "w", "e", "r", "␣", "lo", "w", "e", "s", "t"], "l + o → lo"),
        (["low", "␣", "low", "e", "r", "␣", "low", "e", "s", "t"], "lo + w → low"),
        (["low", "␣", "lowe", "r", "␣", "lowe", "s", "t"], "low + e → lowe"),
    ]
    for number, (tokens, name) in enumerate(steps):
        x, y = 130.0, 14 + 46 * number
        sheet.text(118, y + 16, name, size=13, at="end", mono=number > 0)
        for token in tokens:
            width = 24.0 * len(token)
            hue = "orange" if len(token) > 1 else "blue"
            sheet.box(x, y, width - 3, 32, token, hue=hue, size=15, mono=True)
            x += width
        sheet.text(
            WIDTH - 90, y + 16, sheet.say(f"{len(tokens)} tokens", f"토큰 {len(tokens)}개"), size=13
        )


def matrix(
    sheet: Sheet, x: float, y: float, rows: Sequence[Sequence[str]], hues: Callable[[int, int], str]
) -> None:
    """A matrix of small squares; a hue of "gray" is nearly empty."""
    for i, row in enumerate(rows):
        for j, word in enumerate(row):
            hue = hues(i, j)
            strength = 0.05 if hue == "gray" else 0.25
            sheet.box(x + 36 * j, y + 30 * i, 34, 28, word, hue=hue, strength=strength, size=12)


def averages(sheet: Sheet) -> None:
    """The three ways to a mean of the past are one matrix."""

    def past(i: int, j: int) -> str:
        return "blue" if j <= i else "gray"

    n = range(4)
    mean = [[("1" if i == 0 else f"1/{i + 1}") if j <= i else "0" for j in n] for i in n]
    scores = [["0" if j <= i else "−∞" for j in n] for i in n]
    loops = [["x" if j <= i else "" for j in n] for i in n]
    for x, name, rows in (
        (15, sheet.say("1. loop: mean of these", "방법 1. 반복문: 이것의 평균"), loops),
        (245, sheet.say("2. weights @ x", "방법 2. 가중치 @ x"), mean),
        (475, sheet.say("3. softmax of scores", "방법 3. 점수의 소프트맥스"), scores),
    ):
        sheet.text(x + 71, 14, name, size=13)
        matrix(sheet, x, 32, rows, past)
    sheet.arrow(468, 91, 394, 91, hue="orange")
    sheet.text(431, 78, "softmax", size=12)
    sheet.arrow(164, 91, 238, 91, hue="orange")
    sheet.text(201, 78, sheet.say("equal", "같음"), size=12)
    sheet.text(
        WIDTH / 2,
        172,
        sheet.say(
            "A row is a position, a column what it may read.",
            "행은 위치이고, 열은 그 위치가 읽을 수 있는 것이에요.",
        ),
        size=13,
    )


def qkv(sheet: Sheet) -> None:
    """One query meets all keys; their values are added by the weights."""
    letters, weights = "the k", [0.08, 0.12, 0.55, 0.05, 0.20]
    for number, (letter, weight) in enumerate(zip(letters, weights, strict=True)):
        x = 140 + 100 * number
        sheet.box(x, 12, 60, 30, letter.replace(" ", "␣"), hue="gray", size=16, mono=True)
        sheet.box(x - 14, 76, 40, 26, "k", hue="green")
        sheet.box(x + 34, 76, 40, 26, "v", hue="orange")
        sheet.arrow(x + 24, 44, x + 8, 73)
        sheet.arrow(x + 36, 44, x + 54, 73)
        tall = 90 * weight
        sheet.box(x - 10, 205 - tall, 32, tall, hue="green", strength=0.5)
        sheet.text(x + 6, 218, f"{weight:.2f}", size=12)
        sheet.arrow(x + 54, 104, 372 + 26 * number, 252, hue="orange", width=0.6 + 5 * weight)
    sheet.box(20, 76, 60, 26, "q", hue="blue")
    sheet.arrow(82, 89, 122, 89, hue="blue")
    sheet.text(50, 62, sheet.say("of the last token", "마지막 토큰의 쿼리"), size=12)
    sheet.text(102, 190, sheet.say("weights", "가중치"), size=13, at="end")
    sheet.text(102, 207, sheet.say("softmax(q · k)", "softmax(q · k)"), size=12, at="end")
    sheet.box(340, 256, 170, 30, sheet.say("sum of the values", "밸류의 가중합"), hue="orange")


def mask(sheet: Sheet) -> None:
    """What each position may read."""
    letters = "First"
    for i in range(5):
        sheet.text(185, 59 + 34 * i, letters[i], size=16, mono=True)
        sheet.text(223 + 38 * i, 26, letters[i], size=16, mono=True)
        for j in range(5):
            seen = j <= i
            sheet.box(
                205 + 38 * j, 44 + 34 * i, 36, 32, "" if seen else "−∞",
                hue="blue" if seen else "red", strength=0.4 if seen else 0.06, size=12,
            )  # fmt: skip
    sheet.text(165, 128, sheet.say("reader", "읽는 위치"), size=13, at="end")
    sheet.text(420, 26, sheet.say("← what is read", "← 읽히는 위치"), size=13, at="start")
    sheet.text(420, 90, sheet.say("future: hidden", "미래: 가려져요"), size=13, at="start")
    sheet.text(
        420, 180, sheet.say("past and itself: seen", "과거와 자신: 보여요"), size=13, at="start"
    )


def heads(sheet: Sheet) -> None:
    """Several heads read the same channels and write their own."""
    sheet.box(240, 10, 160, 30, sheet.say("32 channels", "채널 32개"), hue="gray")
    for number in range(4):
        x = 40 + 145 * number
        sheet.arrow(320, 42, x + 60, 74)
        words = sheet.say(f"head {number + 1}", f"헤드 {number + 1}")
        sheet.box(x, 78, 120, 34, words, hue=("blue", "green", "orange", "red")[number])
        sheet.arrow(x + 60, 114, 260 + 40 * number, 150)
        hue = ("blue", "green", "orange", "red")[number]
        sheet.box(240 + 40 * number, 154, 40, 30, "8", hue=hue)
    sheet.text(
        420,
        169,
        sheet.say("side by side: 32 again", "나란히 이으면 다시 32개"),
        size=13,
        at="start",
    )
    sheet.arrow(320, 186, 320, 208)
    sheet.box(230, 212, 180, 30, sheet.say("linear layer: mix", "선형층: 섞기"), hue="gray")


def block(sheet: Sheet) -> None:
    """A block: a road that goes straight on, and two side roads."""
    sheet.arrow(30, 60, 618, 60, hue="blue", width=4)
    sheet.text(
        320,
        22,
        sheet.say("residual path: x goes straight on", "잔차 경로: x가 그대로 지나가요"),
        size=13,
    )
    sheet.text(22, 60, "x", size=16, at="end")
    for x, name, hue in (
        (70, sheet.say("attention", "어텐션"), "orange"),
        (345, "MLP", "green"),
    ):
        sheet.line([(x, 60), (x, 125), (x + 10, 125)])
        sheet.box(x + 12, 110, 80, 30, "norm", hue="gray")
        sheet.arrow(x + 94, 125, x + 112, 125)
        sheet.box(x + 116, 110, 96, 30, name, hue=hue)
        sheet.line([(x + 214, 125), (x + 232, 125)])
        sheet.arrow(x + 232, 125, x + 232, 74)
        sheet.circle(x + 232, 60, 11, hue=hue)
        sheet.text(x + 232, 60, "+", size=17)
    sheet.text(
        186, 164, sheet.say("tokens talk to each other", "토큰끼리 정보를 주고받아요"), size=13
    )
    sheet.text(
        461, 164, sheet.say("each token thinks for itself", "토큰마다 따로 계산해요"), size=13
    )


def clocks(sheet: Sheet) -> None:
    """Rotary positions: each pair of channels is a hand that turns at its own speed."""
    for row, (speed, name) in enumerate(
        ((1.0, sheet.say("fast pair", "빠른 쌍")), (0.25, sheet.say("slow pair", "느린 쌍")))
    ):
        y = 56 + 100 * row
        sheet.text(98, y, name, size=13, at="end")
        for position in range(6):
            x = 145 + 86 * position
            sheet.circle(x, y, 34, hue="gray")
            turn = speed * position - math.pi / 2
            hue = ("blue", "orange")[row]
            sheet.arrow(x, y, x + 30 * math.cos(turn), y + 30 * math.sin(turn), hue=hue, width=2.5)
            if row:
                sheet.text(x, y + 50, str(position), size=13)
    sheet.text(98, 206, sheet.say("position", "위치"), size=13, at="end")
    sheet.text(
        WIDTH / 2,
        238,
        sheet.say(
            "Between two positions the angle depends on their distance alone.",
            "두 위치 사이의 각은 거리에만 달려 있어요.",
        ),
        size=13,
    )


def kv_cache(sheet: Sheet) -> None:
    """The key-value cache: each step computes one column and reads the others again."""
    for row in range(4):
        y = 40 + 42 * row
        sheet.text(112, y + 15, sheet.say(f"step {row + 1}", f"스텝 {row + 1}"), size=13, at="end")
        for column in range(row + 1):
            new = column == row
            sheet.box(
                130 + 66 * column, y, 60, 30, "k, v",
                hue="orange" if new else "blue", strength=0.4 if new else 0.15, size=13,
            )  # fmt: skip
        sheet.text(
            WIDTH - 110,
            y + 15,
            sheet.say(f"1 new, {row} from the cache", f"새로 1개, 캐시에서 {row}개"),
            size=13,
        )
    sheet.text(
        262,
        18,
        sheet.say("keys and values of the tokens so far", "지금까지 나온 토큰의 키와 밸류"),
        size=13,
    )


def loop(sheet: Sheet) -> None:
    """The training loop."""
    stations = [
        (sheet.say("batch", "배치"), "blue"),
        (sheet.say("forward", "순전파"), "blue"),
        (sheet.say("loss", "손실"), "orange"),
        (sheet.say("backward", "역전파"), "green"),
        (sheet.say("step", "업데이트"), "green"),
    ]
    for number, (words, hue) in enumerate(stations):
        x = 20 + 124 * number
        sheet.box(x, 30, 96, 40, words, hue=hue)
        if number:
            sheet.arrow(x - 26, 50, x - 4, 50)
    for number, note in enumerate(("x, y", "logits", "4.88 → 2.45", "∂loss/∂w", "w ← w − lr·∂")):
        sheet.text(68 + 124 * number, 88, note, size=12, mono=True)
    sheet.line([(564, 100), (564, 124), (68, 124)])
    sheet.arrow(68, 124, 68, 100)
    sheet.text(
        WIDTH / 2, 142, sheet.say("again, thousands of times", "수천 번 되풀이해요"), size=13
    )


def intervals(sheet: Sheet) -> None:
    """Arithmetic coding: each character narrows the interval by its probability."""
    left, right = 30.0, 610.0
    shares = [("a", 0.5), ("b", 0.25), ("c", 0.25)]
    for row, chosen in enumerate(("a", "c", "b")):
        y, x = 20 + 70 * row, left
        new = (left, right)
        for letter, share in shares:
            width = (right - left) * share
            hue = "orange" if letter == chosen else "blue"
            sheet.box(x, y, width, 30, letter if width > 12 else "", hue=hue, size=15, mono=True)
            if letter == chosen:
                new = (x, x + width)
            x += width
        if row < 2:
            for x0, x1 in zip(new, (30.0, 610.0), strict=True):
                sheet.line([(x0, y + 32), (x1, y + 68)])
    sheet.text(
        WIDTH / 2,
        212,
        sheet.say(
            "a, c, b: 1 + 2 + 2 = 5 bits name a number inside. A likely character costs little.",
            "a, c, b: 1 + 2 + 2 = 5비트로 이 구간을 가리켜요. 확률이 높으면 비트를 적게 써요.",
        ),
        size=13,
    )


def split(sheet: Sheet) -> None:
    """A text held out: the model never trains on the last tenth."""
    sheet.box(20, 20, 540, 44, sheet.say("training: 90%", "학습 데이터: 90%"), hue="blue")
    sheet.box(562, 20, 60, 44, "10%", hue="orange")
    sheet.text(592, 84, sheet.say("validation", "검증 데이터"), size=13)
    sheet.arrow(20, 84, 540, 84)
    sheet.text(
        280, 104, sheet.say("the text from beginning to end", "텍스트의 처음부터 끝까지"), size=13
    )


def ranks(sheet: Sheet) -> None:
    """Two processes share a batch, and their gradients meet."""
    sheet.text(100, 27, sheet.say("batch", "배치"), at="end")
    for number in range(4):
        rank = number % 2
        x = 120 + 105 * number
        hue = ("blue", "orange")[rank]
        sheet.box(x, 12, 85, 30, sheet.say(f"block {number}", f"블록 {number}"), hue=hue, size=13)
        sheet.arrow(x + 42, 44, 160 + 320 * rank, 84, hue=hue)
    for rank, hue in enumerate(("blue", "orange")):
        middle = 160 + 320 * rank
        words = sheet.say(f"rank {rank}: all weights", f"랭크 {rank}: 전체 가중치")
        sheet.box(middle - 90, 88, 180, 30, words, hue=hue)
        sheet.arrow(middle, 120, middle, 144, hue=hue)
        gradient = sheet.say("its gradient", "자기 몫의 기울기")
        sheet.box(middle - 75, 148, 150, 28, gradient, hue=hue, strength=0.1, size=13)
        inner = (280, 360)[rank]
        sheet.arrow(middle, 178, inner, 214, hue="green")
        sheet.arrow(inner, 250, middle, 280, hue="green")
        same = sheet.say("the same update", "같은 업데이트")
        sheet.box(middle - 75, 284, 150, 28, same, hue="green", size=13)
    mean = sheet.say("all-reduce: mean of the gradients", "올리듀스: 기울기의 평균")
    sheet.box(190, 217, 260, 30, mean, hue="green")


KINDS: dict[str, Callable[[Sheet], None]] = {
    drawing.__name__: drawing
    for drawing in (
        split,
        merges,
        shifted,
        loop,
        averages,
        qkv,
        mask,
        heads,
        block,
        kv_cache,
        clocks,
        intervals,
        ranks,
    )
}


@cache
def captions() -> dict[str, dict[str, Any]]:
    """drawings.toml: the height of each drawing, and what it shows in words."""
    source = importlib.resources.files("hornbook.learn") / "drawings.toml"
    return tomllib.loads(source.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Drawing:
    """A drawing, shown in notebooks and on the site."""

    name: str
    language: Language

    def svg(self, language: Language) -> str:
        """The drawing in a language."""
        about = captions()[self.name]
        sheet = Sheet(language, about["height"])
        KINDS[self.name](sheet)
        return sheet.svg(about[language])

    def __repr__(self) -> str:
        return captions()[self.name][self.language]

    def _repr_html_(self) -> str:
        """Both languages; the one that is not the page's is hidden."""
        return "".join(
            f'<div class="hornbook-drawing" style="overflow-x:auto" lang="{language}"'
            f"{'' if language == self.language else ' hidden'}>{self.svg(language)}</div>"
            for language in LANGUAGES
        )


def draw(name: str, *, language: str | None = None) -> Drawing:
    """A drawing of the lessons. Raises: ConfigError for an unknown name or language."""
    if name not in KINDS:
        raise ConfigError(
            msg("unknown drawing {name!r}; known: {known}", name=name, known=", ".join(KINDS))
        )
    return Drawing(name, choose_language(language))
