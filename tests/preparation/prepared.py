"""Small documents, and stores of them."""

import random
from pathlib import Path
from typing import Any

import msgspec

from hornbook.preparation.documents import Reading
from hornbook.preparation.work import Outcome, Wanted
from hornbook.text.fields import SEPARATOR
from hornbook.text.store import Store

WORDS = ("the", "slings", "and", "arrows", "of", "outrageous", "죽느냐", "그것이", "문제로다")
SHARE = 0.2


def texts(count: int = 200, seed: int = 0) -> list[str]:
    drawn = random.Random(seed)
    return [" ".join(drawn.choices(WORDS, k=drawn.randint(5, 60))) for _ in range(count)]


def wanted(*sources: Path | str, **values: Any) -> Wanted:
    usual = Wanted(
        sources=[*map(str, sources)],
        reading=Reading(field="text"),
        vocab_size=280,
        validation_share=SHARE,
        unit_bytes=15_000,
    )
    return msgspec.structs.replace(usual, **values)


def finished(made: Outcome) -> Store:
    assert made.store is not None
    return made.store


def documents(store: Store, part: str) -> list[str]:
    stream = store.stream(part)
    text = store.tokenizer.decode(stream.read(0, len(stream)))
    first, *found = text.split(SEPARATOR)
    assert not first, "every document begins with a separator"
    return found
