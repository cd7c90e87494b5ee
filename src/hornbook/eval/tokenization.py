"""A trial of tokenizers: how well a stretch of the training part is predicted in each one's tokens.

What will predict most of the text in a run is tried without its network: a mixer, or n-grams. A
mixer reads the stretch from its beginning and predicts each token before it learns it, and the
second half is measured. Of a text's validation part nothing is read.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hornbook import cores
from hornbook.config import DataConfig
from hornbook.kernels import NativeUnavailableError
from hornbook.kernels.mixer import mixer_library
from hornbook.language import joined, msg
from hornbook.models.mixer import Mixer
from hornbook.ngram.tuning import MAX_ORDER, held_out_length, tune
from hornbook.text.corpus import Corpus
from hornbook.text.dataset import Reader
from hornbook.text.tokenizer import KINDS, Tokenizer, build_tokenizer

# BPE learns its merges from so many characters before the measured half.
MOST_LEARNED = 1_000_000
# A stretch shorter than that says little about a text, and a longer one little more.
FEWEST_CHARACTERS, MOST_CHARACTERS = 20_000, 1_000_000
# With fewer bytes a character than that, bytes are the characters.
NEARLY_ASCII = 1.01


@dataclass(frozen=True)
class Trial:
    """What each kind of tokenizer gave, in nats a character, on a stretch of so many characters."""

    nats_per_char: Mapping[str, float]
    characters: int

    @property
    def best(self) -> str:
        """The kind with the least loss; characters where nothing was tried."""
        found = self.nats_per_char
        return min(found, key=lambda kind: found[kind], default=KINDS[0])

    def choosing(self, kind: str) -> str:
        """That a kind was chosen, what was tried, and what each gave, in one line."""
        if not self.nats_per_char:
            why = msg("the training part is too short to try others")
        else:
            why = msg(
                "{figures} nats/char on {held_out:,} characters held out from the training part, "
                "after {before:,}, without a network",
                figures=joined(", ", [f"{k} {nats:.3f}" for k, nats in self.nats_per_char.items()]),
                held_out=self.characters // 2,
                before=self.characters - self.characters // 2,
            )
        return joined(": ", (kind, why))

    def as_dict(self) -> dict[str, Any]:
        """The trial as JSON has it."""
        return {"characters": self.characters, "nats_per_char": dict(self.nats_per_char)}

    @classmethod
    def of(cls, facts: object) -> Self | None:
        """The trial whose `as_dict` this is; None for anything else."""
        if not isinstance(facts, dict):
            return None
        characters, found = facts.get("characters"), facts.get("nats_per_char")
        if not isinstance(characters, int) or not isinstance(found, dict):
            return None
        sound = all(kind in KINDS and isinstance(nats, float) for kind, nats in found.items())
        return cls(found, characters) if sound else None


def attempt(
    corpus: Corpus, data: DataConfig, kinds: Sequence[str], to_read: int, *, mixed: bool
) -> Trial:
    """Try kinds of tokenizers on the end of a text's training part.

    All kinds together read about `to_read` characters, or bytes. N-grams predict in place of the
    mixer where a run has none (not `mixed`), and without a C compiler. The result depends on the
    text and the arguments alone.
    Raises: DataError if a file has changed.
    """
    cut = corpus.split_place(data.validation_fraction)
    most = min(cut, MOST_CHARACTERS, to_read // 2)
    if most < FEWEST_CHARACTERS:
        return Trial({}, most)
    text = "".join(Reader(corpus).between(max(0, cut - most // 2 - MOST_LEARNED), cut))
    bytes_a_character = len(text[-most:].encode("utf-8", "surrogatepass")) / most
    if bytes_a_character < NEARLY_ASCII:
        kinds = [kind for kind in kinds if kind != "byte"]
    reads_a_character = sum(bytes_a_character if kind == "byte" else 1 for kind in kinds)
    characters = min(most, int(to_read / reads_a_character))
    half = len(text) - characters // 2
    first, second = text[-characters:half], text[half:]
    nats = nats_by_ngrams
    if mixed:
        with suppress(NativeUnavailableError):
            mixer_library()
            nats = nats_by_mixer

    def measured(kind: str) -> float:
        # Characters come from all of a text, and merges from what is not measured.
        learned = first + second if kind == "char" else text[max(0, half - MOST_LEARNED) : half]
        tokenizer = build_tokenizer(kind, learned, vocab_size=data.bpe_vocab_size)
        return nats(tokenizer, first, second)

    with ThreadPoolExecutor(max(1, min(len(kinds), cores.usable().count))) as pool:
        return Trial(dict(zip(kinds, pool.map(measured, kinds), strict=True)), characters)


def nats_by_mixer(tokenizer: Tokenizer, first: str, second: str) -> float:
    """Nats a character of the second text by a mixer that has read the first, and reads on."""
    before, after = (tokenizer.encode_array(text) for text in (first, second))
    tokens = np.concatenate([before, after])
    nats_T = Mixer.begin(tokenizer, tokens).learner().read(tokens)
    return float(nats_T[len(before) :].sum()) / len(second)


def nats_by_ngrams(tokenizer: Tokenizer, first: str, second: str) -> float:
    """Nats a character of the texts' end by the best n-grams, tuned on it and counted before it."""
    tokens = tokenizer.encode_array(first + second)
    held_out = held_out_length(len(tokens))
    characters = len(tokenizer.decode(tokens[-held_out:]))
    tuned = tune(tokens, tokenizer.vocab_size, max_order=MAX_ORDER)
    return min(tuned.losses_nats.values()) * held_out / characters
