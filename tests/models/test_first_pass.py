"""A mixer's first pass: the same bits whenever it is read, and a thread that ends when told to."""

import gc
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest

from hornbook.errors import DataError
from hornbook.models import first_pass
from hornbook.models.first_pass import FirstPass
from hornbook.models.mixer import Mixer
from hornbook.text.tokenizer import build_tokenizer

TEXT = "to be, or not to be: that is the question.\n" * 40


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_pass, "PIECE", 100)


def readers() -> int:
    """How many passes are being read."""
    return sum(each.name == "hornbook-read" for each in threading.enumerate())


def fall_to(expected: int) -> bool:
    """Whether no more than these are left, a moment after the last word of one that ends."""
    for _ in range(500):
        if readers() <= expected:
            return True
        time.sleep(0.01)
    return False


def test_when_it_is_read_changes_no_bit() -> None:
    tokenizer = build_tokenizer("char", TEXT)
    tokens = tokenizer.encode_array(TEXT)
    expected = Mixer.begin(tokenizer, tokens)
    expected.learner().read(tokens[:-50])
    before = readers()
    reading = FirstPass(tokenizer, tokens, 50)
    assert not reading.paused
    reading.pause()
    assert reading.paused
    time.sleep(0.05)
    mixer, _ = reading.finish()
    np.testing.assert_array_equal(mixer.lines, expected.lines)
    np.testing.assert_array_equal(mixer.weights, expected.weights)
    assert reading.seconds_left(1.0) == 0
    reading.stop()
    assert fall_to(before)


def test_it_knows_what_it_is_of() -> None:
    tokenizer = build_tokenizer("char", TEXT)
    tokens = tokenizer.encode_array(TEXT)
    reading = FirstPass(tokenizer, tokens, 50)
    assert reading.is_of(tokenizer, tokens.copy(), 50)
    assert not reading.is_of(tokenizer, tokens, 51)
    assert not reading.is_of(tokenizer, tokens[1:], 50)
    assert not reading.is_of(build_tokenizer("char", TEXT + "x"), tokens, 50)
    reading.stop()


def test_a_paused_one_waits_and_one_that_nobody_has_ends() -> None:
    tokenizer = build_tokenizer("char", TEXT * 20)
    tokens = tokenizer.encode_array(TEXT * 20)
    reading = FirstPass(tokenizer, tokens, 50)
    reading.pause()
    time.sleep(0.05)
    left = reading.seconds_left(1.0)
    assert left > 0
    time.sleep(0.05)
    assert reading.seconds_left(1.0) == left
    before = readers()
    assert before > 0
    del reading
    gc.collect()
    assert fall_to(before - 1)
    stopped = FirstPass(tokenizer, tokens, 50)
    stopped.pause()
    stopped.stop()
    with pytest.raises(CancelledError):
        stopped.finish()


def test_what_goes_wrong_is_raised_where_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hornbook.models.mixer.MOST_TOKENS", 1000)
    tokenizer = build_tokenizer("char", TEXT)
    reading = FirstPass(tokenizer, tokenizer.encode_array(TEXT), 50)
    with pytest.raises(DataError, match="a mixer learns 1,000 at most"):
        reading.finish()
