"""A model's reading of the validation text, character by character: where it is right and wrong."""

import unicodedata
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hornbook.text.dataset import Tokens
from hornbook.text.tokenizer import Tokenizer

Floats = NDArray[np.float64]

# The bootstrap draws whole stretches of text, because neighbouring characters are hard or easy
# together: a scene, a speaker, a name. On tiny Shakespeare the interval grows with the stretch,
# from 0.009 nats (single characters) over 0.017 (1,000) to 0.023 (3,000), and stays there (5,000).
STRETCH = 3000
FEWEST_STRETCHES = 20
RESAMPLES = 2000

PASSAGES = 4
PASSAGE_CORE = 40  # the characters whose mean surprise ranks a passage
PASSAGE_AROUND = 80


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% confidence interval, by drawing stretches of text anew."""

    mean: float
    low: float
    high: float
    stretch: int
    stretches: int

    @property
    def half_width(self) -> float:
        """The ± of it."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Reading:
    """The predicted part of a text with a loss, in nats, for each of its characters.

    `first_line` is the line of the whole text on which it begins; None for stretches of one.
    """

    text: str
    nats: Floats
    first_line: int | None = None


def read(tokenizer: Tokenizer, tokens: Tokens, nats: Floats) -> Reading:
    """Share each token's loss out over the characters it spells, evenly over its bytes.

    Shapes: tokens [N], nats [N] -> characters [C]. A character cut off at the beginning belongs
    to the first whole one, so that the mean is the loss per character of `evaluation`.
    """
    spelled = tokenizer.token_bytes()
    lengths = np.array([len(token) for token in spelled])[tokens]
    data = b"".join([spelled[token] for token in tokens.tolist()])
    begins = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    character = np.maximum(np.cumsum(begins) - 1, 0)
    text = data[int(begins.argmax()) :].decode(errors="replace")
    if len(text) != begins.sum():
        # Stretches of bytes put together: a character cut at a seam is a stand-in for itself.
        pieces = np.split(np.frombuffer(data, np.uint8), np.flatnonzero(begins))[1:]
        text = "".join(piece.tobytes().decode(errors="replace")[:1] for piece in pieces)
    by_byte = np.repeat(nats / np.maximum(lengths, 1), lengths)
    by_character = np.bincount(character, by_byte, minlength=len(text))
    return Reading(text, by_character.astype(np.float64, copy=False))


def interval(nats: Floats, *, seed: int = 0) -> Interval:
    """The mean, and within which bounds it would lie on other text of this kind.

    A block bootstrap over contiguous stretches (Künsch 1989; here without overlap). It knows
    nothing of other seeds of training.
    """
    size = max(1, min(STRETCH, len(nats) // FEWEST_STRETCHES))
    pieces = np.array_split(nats, max(1, len(nats) // size))
    sums = np.array([piece.sum() for piece in pieces])
    sizes = np.array([len(piece) for piece in pieces])
    draws = np.random.default_rng(seed).multinomial(
        len(pieces), np.full(len(pieces), 1 / len(pieces)), size=RESAMPLES
    )
    low, high = np.percentile(draws @ sums / (draws @ sizes), [2.5, 97.5])
    return Interval(float(nats.mean()), float(low), float(high), size, len(pieces))


@dataclass(frozen=True)
class Depth:
    """The loss of tokens that have from `first` to `last` tokens of context, in nats/char.

    `noise` is 1.96 standard errors, taking blocks to be independent.
    """

    first: int
    last: int
    nats_per_char: float
    noise: float


@dataclass(frozen=True)
class Reach:
    """How the loss falls along what is read at once; the last doubling, with its uncertainty."""

    context_size: int
    depths: list[Depth]
    last_doubling: float | None
    noise: float | None


def reach(nats: Floats, context_size: int, tokens_per_char: float) -> Reach:
    """Loss by how much is before a token: 1 token of context, 2, 3 to 4, 5 to 8, and so on.

    Shapes: nats [N], read `context_size` at once, in order; whole such pieces alone are
    counted. The last doubling compares the second half of each with the quarter before it.
    """
    pieces = len(nats) // context_size
    whole = tokens_per_char * nats[: pieces * context_size].reshape(pieces, context_size)
    if pieces < 2:
        return Reach(context_size, [], None, None)
    depths: list[Depth] = []
    first = 1
    while first <= context_size:
        last = min(context_size, max(1, 2 * (first - 1)))
        depths.append(Depth(first, last, *mean_and_noise(whole[:, first - 1 : last].mean(axis=1))))
        first = last + 1
    if context_size < 4:
        return Reach(context_size, depths, None, None)
    half, quarter = context_size // 2, context_size // 4
    gains = whole[:, quarter:half].mean(axis=1) - whole[:, half:].mean(axis=1)
    return Reach(context_size, depths, *mean_and_noise(gains))


def mean_and_noise(values: Floats) -> tuple[float, float]:
    """A mean, and 1.96 standard errors of it; of two values at least."""
    return float(values.mean()), 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5


@dataclass(frozen=True)
class Kind:
    """The characters of one kind: how many, how hard, for the model and for counts."""

    name: str
    characters: int
    share_of_text: float
    share_of_loss: float
    nats_per_char: float
    counts_nats_per_char: float


def kinds(reading: Reading, counted: Reading) -> list[Kind]:
    """Loss by kind of character, what costs most first."""
    names = {character: kind_of(character) for character in set(reading.text)}
    order = sorted(set(names.values()))
    number = {name: i for i, name in enumerate(order)}
    by_code = {ord(character): number[name] for character, name in names.items()}
    which = np.array([by_code[ord(character)] for character in reading.text])
    counts = np.bincount(which, minlength=len(order))
    sums = np.bincount(which, reading.nats, minlength=len(order))
    counted_sums = np.bincount(which, counted.nats, minlength=len(order))
    found = [
        Kind(
            name=name,
            characters=int(counts[i]),
            share_of_text=float(counts[i] / len(which)),
            share_of_loss=float(sums[i] / sums.sum()) if sums.sum() else 0.0,
            nats_per_char=float(sums[i] / counts[i]),
            counts_nats_per_char=float(counted_sums[i] / counts[i]),
        )
        for i, name in enumerate(order)
    ]
    return sorted(found, key=lambda kind: -kind.share_of_loss)


KINDS_BY_CATEGORY = {
    "Lu": "capital letters",
    "Lt": "capital letters",
    "Ll": "small letters",
    "Nd": "digits",
    "M": "accents and marks",
    "N": "other numbers",
    "P": "punctuation",
    "S": "symbols",
    "Z": "spaces",
}


def kind_of(character: str) -> str:
    """A plain name for what a character is; letters without case go by their script."""
    if character in "\n\r\x0b\x0c\x85\u2028\u2029":
        return "line ends"
    if character.isspace():
        return "spaces"
    category = unicodedata.category(character)
    if category in ("Lo", "Lm"):
        script = unicodedata.name(character, "other").split()[0].split("-")[0]
        return "Chinese characters" if script == "CJK" else f"{script.title()} letters"
    return KINDS_BY_CATEGORY.get(category, KINDS_BY_CATEGORY.get(category[0], "others"))


@dataclass(frozen=True)
class Passage:
    """A piece of text, with a loss in nats for each character; `line` is where it stands, if one
    can say.
    """

    text: str
    nats: list[float]
    line: int | None
    mean_nats: float


def passages(reading: Reading) -> list[Passage]:
    """The most surprising passages, worst first, none twice."""
    core = min(PASSAGE_CORE, len(reading.text))
    sums = np.concatenate([[0.0], np.cumsum(reading.nats)])
    means = (sums[core:] - sums[:-core]) / core
    found: list[Passage] = []
    apart = core + 2 * PASSAGE_AROUND
    for _ in range(PASSAGES):
        at = int(means.argmax())
        if not means[at] > 0:
            break
        found.append(passage(reading, at, at + core))
        means[max(0, at - apart) : at + apart] = 0
    return found


def ordinary_passage(reading: Reading) -> Passage:
    """A passage about as hard as the whole: the yardstick for the hard ones."""
    length = min(PASSAGE_CORE + 2 * PASSAGE_AROUND, len(reading.text))
    sums = np.concatenate([[0.0], np.cumsum(reading.nats)])
    means = (sums[length:] - sums[:-length]) / length
    at = int(np.abs(means - reading.nats.mean()).argmin())
    return passage(reading, at, at + length, around=0)


def passage(reading: Reading, start: int, stop: int, around: int = PASSAGE_AROUND) -> Passage:
    """A stretch with what stands around it, up to the word where that is cut off."""
    first, last = max(0, start - around), min(len(reading.text), stop + around)
    first = next((i for i in range(first, start) if reading.text[i - 1 : i].isspace()), first)
    last = next((i for i in range(last, stop, -1) if reading.text[i : i + 1].isspace()), last)
    return Passage(
        text=reading.text[first:last],
        nats=reading.nats[first:last].tolist(),
        line=None
        if reading.first_line is None
        else reading.first_line + reading.text.count("\n", 0, start),
        mean_nats=float(reading.nats[start:stop].mean()),
    )


def alphabet(seen: Counter[str]) -> list[str]:
    """The visible characters of a text, small letters first as on a hornbook.

    Where there are more than a hundred they come by frequency.
    """
    visible = sorted(c for c in seen if not c.isspace() and unicodedata.category(c)[0] != "C")
    if len(visible) > 100:
        return sorted(visible, key=lambda c: -seen[c])
    categories = ("Ll", "Lu", "Lo", "Nd")
    rank = {c: unicodedata.category(c) for c in visible}
    return sorted(visible, key=lambda c: categories.index(rank[c]) if rank[c] in categories else 9)
