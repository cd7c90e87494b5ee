"""What a validation part shares with its training part, and what only it has.

A copied passage is predicted from memory, so the loss on it is not that of new text.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hornbook.eval.baselines import spread
from hornbook.eval.loss import MOST_EVALUATED, lengths
from hornbook.language import msg
from hornbook.ngram.window_hashes import copied_characters
from hornbook.text.corpus import Corpus
from hornbook.text.dataset import Dataset, Reader, Tokens
from hornbook.text.forms import code_points, reformed
from hornbook.text.tokenizer import Tokenizer

Mask = NDArray[np.bool_]

# The shortest copied run, in characters. Two texts of one kind share phrases, but hardly a line.
RUN = 50
# From this share on a loss is no longer that of new text, and a warning says so.
WARNING_SHARE = 0.05
# How many tokens of a training part's end are searched: 0.06 s a million, whatever the text.
MOST_SEARCHED = 100_000_000
NAMED = 20
VALIDATION_TEXT = msg("the validation text")


@dataclass(frozen=True)
class Copied:
    """How much of a text stands verbatim in a training text, in runs of RUN characters and more.

    `mask` has for each token whether all of it does. Line ends and Unicode forms are set aside.
    """

    characters: int
    copied_characters: int
    searched: int | None  # how many tokens of the training text, where not all
    mask: Mask = field(repr=False, compare=False)
    sampled: bool = False  # whether these lie all over it, and not at its end

    @property
    def share(self) -> float:
        """The share of its characters."""
        return self.copied_characters / max(1, self.characters)

    @property
    def much(self) -> bool:
        """Whether the loss on the text is not that of new text."""
        return self.share >= WARNING_SHARE

    def sentence(self, text: str = VALIDATION_TEXT) -> str:
        """The share in words."""
        facts = {"share": self.share, "text": text, "searched": self.searched, "run": RUN}
        if self.sampled:
            return msg(
                "{share:.1%} of {text} stands verbatim in the sampled {searched:,} tokens of the "
                "training text (runs of {run} characters and more)",
                **facts,
            )
        if self.searched:
            return msg(
                "{share:.1%} of {text} stands verbatim in the last {searched:,} tokens of the "
                "training text (runs of {run} characters and more)",
                **facts,
            )
        return msg(
            "{share:.1%} of {text} stands verbatim in the training text (runs of {run} characters "
            "and more)",
            **facts,
        )

    def elsewhere(self, tokenizer: Tokenizer, tokens: Tokens, nats: np.ndarray) -> float | None:
        """The loss per character on all that is not copied; None where everything is.

        Shapes: tokens [N], nats [N-1], as `eval.loss.losses` gives them.
        """
        new = ~self.mask[1:]
        if not new.any():
            return None
        return float(nats[new].sum()) / lengths(tokenizer, tokens[1:][new])[0]


@dataclass(frozen=True)
class Split:
    """What the split of a text leaves for validation: copies of it, and symbols of its own.

    `only_validation` has the tokens that the training part lacks, and `duplicates` the groups of
    files with the same text; they are looked for where much is copied.
    """

    copied: Copied
    vocab_size: int
    only_validation: tuple[str, ...]
    only_validation_positions: int
    positions: int
    duplicates: tuple[tuple[str, ...], ...] = ()

    def warnings(self) -> Iterator[str]:
        """What makes the loss another one than that of new text of this kind."""
        if self.copied.much:
            yield msg(
                "{copied}, so the loss is lower than on new text. {help}",
                copied=self.copied.sentence(),
                help=self.help,
            )
        if self.only_validation:
            yield msg("{symbols}. Nothing can be learned of them.", symbols=self.symbols)

    @property
    def help(self) -> str:
        """What to do about copies."""
        if not self.duplicates:
            return msg("Remove repeated chapters, quotations and boilerplate from the text.")
        listed = "; ".join(" = ".join(group) for group in self.duplicates[:NAMED])
        more = len(self.duplicates) - NAMED
        if more > 0:
            return msg(
                "Remove files with the same text: {listed}; {more:,} more.",
                listed=listed,
                more=more,
            )
        return msg("Remove files with the same text: {listed}.", listed=listed)

    @property
    def symbols(self) -> str:
        """How many tokens only the validation part has, and which."""
        number = len(self.only_validation)
        more = " ..." if number > NAMED else ""
        share = self.only_validation_positions / max(1, self.positions)
        listed = " ".join(self.only_validation[:NAMED]) + more
        if number == 1:
            return msg(
                "1 of {vocab_size:,} tokens occurs only in the validation text, at {share:.1%} of "
                "its positions: {listed}",
                vocab_size=self.vocab_size,
                share=share,
                listed=listed,
            )
        return msg(
            "{number:,} of {vocab_size:,} tokens occur only in the validation text, at {share:.1%} "
            "of its positions: {listed}",
            number=number,
            vocab_size=self.vocab_size,
            share=share,
            listed=listed,
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON has them."""
        return {
            "copied_at_least": RUN,
            "copied_share": self.copied.share,
            "copied_characters": self.copied.copied_characters,
            "characters": self.copied.characters,
            "searched_tokens": self.copied.searched,
            "duplicate_files": self.duplicates,
            "tokens_only_in_validation": self.only_validation,
            "positions_only_in_validation": self.only_validation_positions,
        }


def measure_split(corpus: Corpus, dataset: Dataset) -> Split:
    """Compare the validation part, as far as it is evaluated, with the training part.

    Raises: DataError if a file has changed.
    """
    tokenizer, tokens = dataset.tokenizer, spread(dataset.validation, MOST_EVALUATED)
    copied = find_copied(tokenizer, tokens, dataset.train, dataset.train_tokens)
    counts = np.bincount(tokens, minlength=tokenizer.vocab_size)
    # A sample of a store cannot tell what the rest of it lacks.
    missing = (counts > 0) & (dataset.store is None)
    for start in range(0, len(dataset.train), 1 << 20):
        if not missing.any():
            break
        missing[dataset.train[start : start + (1 << 20)]] = False
    names = tokenizer.token_bytes()
    return Split(
        copied,
        tokenizer.vocab_size,
        tuple(shown(names[each]) for each in np.flatnonzero(missing).tolist()),
        int(counts[missing].sum()),
        len(tokens),
        same_files(corpus) if copied.much else (),
    )


def shown(token: bytes) -> str:
    """A token as a message names it: printable as it is, else by its escapes."""
    text = token.decode(errors="backslashreplace")
    return text if text.isprintable() and not text.isspace() else repr(text)


def same_files(corpus: Corpus) -> tuple[tuple[str, ...], ...]:
    """The groups of files in a folder whose texts are the same but for line ends and Unicode forms.

    Raises: DataError if a file has changed.
    """
    files = corpus.files()
    if len(files) < 2:
        return ()
    reader, groups = Reader(corpus), defaultdict[bytes, list[str]](list)
    ends = [start for start, _ in files[1:]] + [corpus.characters]
    for (start, name), end in zip(files, ends, strict=True):
        groups[hash_of(reader.between(start, end))].append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def hash_of(chunks: Iterable[str]) -> bytes:
    """A hash of a text that leaves out its line ends, Unicode form, and white space at its ends."""
    digest, held, begun = hashlib.sha256(), "", False
    for chunk in reformed(chunks, newlines="lf", normalize="nfc"):
        text = held + chunk if begun else chunk.lstrip()
        words = text.rstrip()
        held, begun = text[len(words) :], begun or bool(words)
        digest.update(words.encode())
    return digest.digest()


def find_copied(
    tokenizer: Tokenizer, tokens: Tokens, train: Tokens, train_tokens: int | None = None
) -> Copied:
    """Find what of a text's tokens stands verbatim in a training part.

    Of a very large training part the last MOST_SEARCHED tokens are searched. Of `train_tokens` in
    all, `train` may have a sample.
    """
    whole = spelled(tokenizer, tokens)
    copied = copied_characters(whole.text, pieces(tokenizer, train[-MOST_SEARCHED:]), RUN)
    sampled = len(train) < (train_tokens or 0)
    searched = min(len(train), MOST_SEARCHED) if sampled or len(train) > MOST_SEARCHED else None
    return Copied(len(whole.text), int(copied.sum()), searched, whole.on_tokens(copied), sampled)


@dataclass(frozen=True)
class Spelled:
    """The text of tokens; bytes that are no UTF-8 are lone surrogates. `lengths` are in bytes."""

    text: str
    lengths: NDArray[np.int64]

    def on_tokens(self, mask: Mask) -> Mask:
        """For each token whether all of its bytes belong to characters of the mask."""
        codes = code_points(self.text)
        widths = 1 + (codes >= 0x80) + (codes >= 0x800).astype(np.int64) + (codes >= 0x10000)
        widths[(codes >= 0xDC80) & (codes < 0xDD00)] = 1
        return all_within(np.repeat(mask, widths), self.lengths)


def spelled(tokenizer: Tokenizer, tokens: Tokens) -> Spelled:
    """The text that tokens spell."""
    sizes = np.array([len(name) for name in tokenizer.token_bytes()])[tokens]
    return Spelled("".join(pieces(tokenizer, tokens)), sizes)


def pieces(tokenizer: Tokenizer, tokens: Tokens) -> Iterator[str]:
    """The same in chunks, without the lengths."""
    return tokenizer.decode_chunks(tokens, errors="surrogateescape")


def all_within(mask: Mask, widths: NDArray[np.int64]) -> Mask:
    """For consecutive pieces of a mask, of these widths, whether all of each is true."""
    sums = np.concatenate([[0], np.cumsum(mask)])
    ends = np.cumsum(widths)
    return sums[ends] - sums[ends - widths] == widths
