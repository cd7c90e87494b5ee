"""The loss of each character of a text, by kind of character and in the hardest passages."""

import unicodedata
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hornbook.text.dataset import Tokens
from hornbook.text.tokenizer import Tokenizer

Floats = NDArray[np.float64]

PASSAGES = 4
PASSAGE_CORE = 40  # passages are ranked by the mean loss of this many characters
PASSAGE_AROUND = 80


@dataclass(frozen=True)
class CharacterLosses:
    """The predicted part of a text, with the loss of each character in nats.

    `first_line` is its first line within the whole text; None if it was joined from stretches.
    """

    text: str
    nats: Floats
    first_line: int | None = None


def losses_by_character(tokenizer: Tokenizer, tokens: Tokens, nats: Floats) -> CharacterLosses:
    """Divide the loss of each token among its characters, evenly over its bytes.

    Shapes: tokens [N], nats [N] -> characters [C]. The loss of a character that is cut off at the
    beginning goes to the first whole one, so that the mean is the evaluation's loss per character.
    """
    spelled = tokenizer.token_bytes()
    lengths = np.array([len(token) for token in spelled])[tokens]
    data = b"".join([spelled[token] for token in tokens.tolist()])
    begins = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    character = np.maximum(np.cumsum(begins) - 1, 0)
    text = data[int(begins.argmax()) :].decode(errors="replace")
    if len(text) != begins.sum():
        # Joined stretches of bytes: a character that is cut off becomes a replacement character.
        pieces = np.split(np.frombuffer(data, np.uint8), np.flatnonzero(begins))[1:]
        text = "".join(piece.tobytes().decode(errors="replace")[:1] for piece in pieces)
    by_byte = np.repeat(nats / np.maximum(lengths, 1), lengths)
    by_character = np.bincount(character, by_byte, minlength=len(text))
    return CharacterLosses(text, by_character.astype(np.float64, copy=False))


@dataclass(frozen=True)
class Kind:
    """The characters of one kind, and their loss under the model and under n-gram counts."""

    name: str
    characters: int
    share_of_text: float
    share_of_loss: float
    nats_per_char: float
    counts_nats_per_char: float


def kinds(losses: CharacterLosses, counted: CharacterLosses) -> list[Kind]:
    """Loss by kind of character, the largest share of the loss first."""
    names = {character: kind_of(character) for character in set(losses.text)}
    order = sorted(set(names.values()))
    number = {character: order.index(name) for character, name in names.items()}
    which = np.array([number[character] for character in losses.text])
    counts = np.bincount(which, minlength=len(order))
    sums = np.bincount(which, losses.nats, minlength=len(order))
    counted_sums = np.bincount(which, counted.nats, minlength=len(order))
    figures = np.stack(
        [counts / len(which), sums / (sums.sum() or 1), sums / counts, counted_sums / counts]
    )
    rows = zip(order, counts.tolist(), figures.T.tolist(), strict=True)
    found = [Kind(name, count, *each) for name, count, each in rows]
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
    """The name of a character's kind; letters without case are named by their script."""
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
    """A part of a text, with the loss of each character in nats.

    `mean_nats` is the mean loss of its core; `line` is None where the line is not known.
    """

    text: str
    nats: list[float]
    line: int | None
    mean_nats: float


def passages(losses: CharacterLosses) -> list[Passage]:
    """The passages with the highest loss, in descending order and without overlap."""
    core = min(PASSAGE_CORE, len(losses.text))
    sums = np.concatenate([[0.0], np.cumsum(losses.nats)])
    means = (sums[core:] - sums[:-core]) / core
    found: list[Passage] = []
    apart = core + 2 * PASSAGE_AROUND
    for _ in range(PASSAGES):
        at = int(means.argmax())
        if not means[at] > 0:
            break
        found.append(passage(losses, at, at + core))
        means[max(0, at - apart) : at + apart] = 0
    return found


def ordinary_passage(losses: CharacterLosses) -> Passage:
    """A passage whose loss is closest to the mean of the text, for comparison."""
    length = min(PASSAGE_CORE + 2 * PASSAGE_AROUND, len(losses.text))
    sums = np.concatenate([[0.0], np.cumsum(losses.nats)])
    means = (sums[length:] - sums[:-length]) / length
    at = int(np.abs(means - losses.nats.mean()).argmin())
    return passage(losses, at, at + length, around=0)


def passage(
    losses: CharacterLosses, start: int, stop: int, around: int = PASSAGE_AROUND
) -> Passage:
    """The characters from `start` to `stop` and those around them, cut at the ends of words."""
    first, last = max(0, start - around), min(len(losses.text), stop + around)
    first = next((i for i in range(first, start) if losses.text[i - 1 : i].isspace()), first)
    last = next((i for i in range(last, stop, -1) if losses.text[i : i + 1].isspace()), last)
    line = losses.first_line
    line = None if line is None else line + losses.text.count("\n", 0, start)
    nats, mean = losses.nats[first:last].tolist(), float(losses.nats[start:stop].mean())
    return Passage(losses.text[first:last], nats, line, mean)


def alphabet(seen: Counter[str]) -> list[str]:
    """The visible characters of a text, small letters first as on a hornbook.

    More than a hundred are ordered by frequency.
    """
    visible = sorted(c for c in seen if not c.isspace() and unicodedata.category(c)[0] != "C")
    if len(visible) > 100:
        return sorted(visible, key=lambda c: -seen[c])
    categories = ("Ll", "Lu", "Lo", "Nd")
    rank = {c: unicodedata.category(c) for c in visible}
    return sorted(visible, key=lambda c: categories.index(rank[c]) if rank[c] in categories else 9)
