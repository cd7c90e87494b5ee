"""A mixer's pass over its text, in a thread of its own: beside work that leaves a core free."""

from __future__ import annotations

import threading
import time
import weakref
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from hornbook.config.settings import HELD_OUT_PART
from hornbook.cores import beside
from hornbook.models.mixer import Mixer, Reader

if TYPE_CHECKING:
    from hornbook.models.mixer import Ids
    from hornbook.text.tokenizer import Tokenizer

# Read in one call, without the interpreter's lock: 0.1 s, after which a pause or an end is obeyed.
PIECE = 8192
# After so much of a core's time its own speed says more than a constant.
ENOUGH_SECONDS = 0.5
# A core of an AMD EPYC (Zen 4) learns tiny Shakespeare at 11.1e-6 s a token, and Korean novels with
# 1,359 characters at 18.9e-6.
SECONDS_A_TOKEN, SECONDS_A_TOKEN_AND_ENTRY = 12e-6, 5e-9
# Of a run limited by time a mixer leaves so many seconds to what comes before it and after it, and
# a part of the rest.
SECONDS_AROUND, SHARE = 5.0, 0.87

Learned: TypeAlias = tuple[Mixer, Reader]


def seconds_a_token(vocab_size: int) -> float:
    """How long a mixer takes to read a token: every node's network probability is a sum."""
    return SECONDS_A_TOKEN + vocab_size * SECONDS_A_TOKEN_AND_ENTRY


def most_read(minutes: float, validation_tokens: int, vocab_size: int) -> int:
    """How many tokens a mixer may read in a run of so many minutes, before the validation text."""
    tokens = SHARE * (60 * minutes - SECONDS_AROUND) / seconds_a_token(vocab_size)
    return max(0, int(tokens) - validation_tokens)


def beginning(n_tokens: int, held_out: int) -> int:
    """Where the network joins a mixer that reads so many tokens, the last of its text.

    Of a part of the text it is the same part as of all.
    """
    return n_tokens - min(held_out, n_tokens // HELD_OUT_PART)


@dataclass
class Progress:
    """What the thread and its owner share."""

    may_read: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    read: int = 0
    seconds: float = 0.0  # of a core


class FirstPass:
    """A mixer learns a text but for its last `held_out` tokens, where a network joins it.

    What it learns depends on the text alone, and not on when it is read and beside what.
    """

    def __init__(self, tokenizer: Tokenizer, tokens: Ids, held_out: int) -> None:
        self.tokens, self.begin = tokens, beginning(len(tokens), held_out)
        self.tokenizer = tokenizer
        self._progress = Progress()
        self.go_on()
        self._learned = beside(read, tokenizer, tokens, self.begin, self._progress)
        # Nobody may be left to say so: at the latest the interpreter's end stops it.
        self._stop = weakref.finalize(self, stop, self._progress, self._learned)

    def is_of(self, tokenizer: Tokenizer, tokens: Ids, held_out: int) -> bool:
        """Whether another pass over these would learn the same."""
        same = (
            self.begin == beginning(len(tokens), held_out)
            and self.tokenizer.to_json() == tokenizer.to_json()
        )
        return same and np.array_equal(self.tokens, tokens)

    @property
    def paused(self) -> bool:
        """Whether it waits to be told to go on."""
        return not self._progress.may_read.is_set()

    def pause(self) -> None:
        """Leave the cores to others, after the piece that is being read."""
        self._progress.may_read.clear()

    def go_on(self) -> None:
        """Read on."""
        self._progress.may_read.set()

    def seconds_left(self, seconds_a_token: float) -> float:
        """How long the rest will take a core: at its own speed, or at first as given."""
        progress = self._progress
        if progress.seconds > ENOUGH_SECONDS:
            seconds_a_token = progress.seconds / progress.read
        return (self.begin - progress.read) * seconds_a_token

    def finish(self) -> Learned:
        """Wait for the end: the mixer, and the reader that goes on after what it has learned.

        Raises: NativeUnavailableError without a C compiler; DataError for too many tokens;
        CancelledError once it is stopped.
        """
        self.go_on()
        return self._learned.result()

    def stop(self) -> None:
        """End the thread, and wait for that."""
        self._stop()


def read(tokenizer: Tokenizer, tokens: Ids, begin: int, progress: Progress) -> Learned:
    """The thread's work, piece by piece."""
    mixer = Mixer.begin(tokenizer, tokens)
    reader = mixer.learner()
    for start in range(0, begin, PIECE):
        progress.may_read.wait()
        if progress.over.is_set():
            raise CancelledError
        began, end = time.thread_time(), min(start + PIECE, begin)
        reader.read(tokens[start:end])
        progress.seconds += time.thread_time() - began
        progress.read = end
    return mixer, reader


def stop(progress: Progress, learned: Future[Learned]) -> None:
    """Have a thread end, and wait for it."""
    progress.over.set()
    progress.may_read.set()
    wait([learned])
