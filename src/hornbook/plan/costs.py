"""What a run takes beside the network's training: counting n-grams, the exact loss, the report."""

from dataclasses import dataclass

from hornbook.config import Config
from hornbook.eval.dynamic import COUNTED_IN_ALL, FEWEST_BETWEEN, RECOUNTING_SECONDS_A_TOKEN
from hornbook.eval.loss import MOST_EVALUATED
from hornbook.plan.memory import Countable, available_bytes

# The least time that is left to training.
SHORTEST_SECONDS = 2.0
# The share of the time that timing steps on this machine may take.
TIMING_SHARE = 0.03
# And that of the dynamic evaluation, which measures evenly spaced pieces where all do not fit.
DYNAMIC_SHARE = 0.05
# It reads every token twice, once to predict and once to learn it, the first with two blocks before
# every 1,024 tokens: in tokens of training.
DYNAMIC_READ = 3.0
# After the last step, measured on two cores with tiny Shakespeare: the report card, and counting
# the training text. Beside a network it is counted before the first step, six times over.
CONCLUDING_SECONDS = 3.9
COUNTING_SECONDS_A_TOKEN = 1.6e-6
JOINT_COUNTING_SECONDS_A_TOKEN, BASELINES_SECONDS_A_TOKEN = 3.2e-6, 0.4e-6
# A mixer of letters takes 1.9 times as long as an earlier one took beside it, which learned tiny
# Shakespeare at 6.3e-6 s a token; a vocabulary of 1,366 syllables took that one 1.4 times as long.
MIXING_SECONDS_A_TOKEN, MIXING_SECONDS_A_TOKEN_AND_ENTRY = 12e-6, 2e-9
# The page, most of it to prune n-grams and to say how often each stood (a million characters).
PAGE_SECONDS, PAGE_SECONDS_A_TOKEN = 0.4, 1.0e-6
# Counting may take this share of the time, and so much memory or half of what is there: a text of
# 100 MB is then learned within 4 GB.
COUNTING_SHARE, COUNTING_BYTES, FEWEST_COUNTED = 0.4, 2_000_000_000, 10_000
ENOUGH_MIXED = 400_000


@dataclass(frozen=True)
class Text:
    """What a plan needs to know of a prepared text."""

    train_tokens: int
    validation_tokens: int
    vocab_size: int
    countable: Countable | None = None


@dataclass(frozen=True)
class Joining:
    """Seconds that n-grams beside a network add; the `_entry` fields, for each vocabulary entry."""

    step: float  # to a step of training
    token: float  # to a token of a step
    token_and_entry: float
    read: float  # to a token of an evaluation
    read_and_entry: float
    network_read: float  # a token of an evaluation without n-grams, in tokens of training


# Two cores; 2 to 32 x 128 tokens of 65 letters, 1,024 pieces of words and 1,367 syllables. With C
# kernels, training is fused and evaluation of the network is PyTorch's.
JOINING_BY_C = Joining(0.001, 1.6e-6, 4.5e-9, 0.8e-6, 2.2e-9, 0.9)
JOINING_BY_TORCH = Joining(0.008, 0.8e-5, 1e-8, 1.2e-5, 1e-8, 0.5)


def joining_of(compile_: str) -> Joining:
    """The costs of n-grams beside a network that is run so."""
    return JOINING_BY_C if compile_ == "c" else JOINING_BY_TORCH


def mixing_seconds(config: Config, text: Text) -> float:
    """How long the mixer learns after the last step, and reads the validation text."""
    if not config.model.held_out(text.train_tokens):
        return 0.0
    read = counted_tokens(config, text) + min(text.validation_tokens, MOST_EVALUATED)
    return read * mixing_seconds_a_token(text.vocab_size)


def mixing_seconds_a_token(vocab_size: int) -> float:
    """How long a mixer takes to read a token: every node's network probability is a sum."""
    return MIXING_SECONDS_A_TOKEN + vocab_size * MIXING_SECONDS_A_TOKEN_AND_ENTRY


def counted_tokens(config: Config, text: Text) -> int:
    """How many tokens of a text n-grams are counted on."""
    return min(text.train_tokens, config.model.counted_tokens)


def counting_seconds(config: Config, text: Text) -> float:
    """How long n-grams are counted before the first step, beside a network."""
    joint = config.model.with_counts
    return JOINT_COUNTING_SECONDS_A_TOKEN * counted_tokens(config, text) if joint else 0.0


def concluding_seconds(config: Config, text: Text, token_seconds: float = 0.0) -> float:
    """How long the exact loss, the baselines and the report take after the last step.

    `token_seconds` is what a token takes in training.
    """
    model, joining = config.model, joining_of(config.train.compile)
    reading = joining.network_read * token_seconds
    if model.with_counts:
        reading += joining.read + text.vocab_size * joining.read_and_entry
    # N-grams beside a mixer have not counted all of the text, and the baselines count it anew.
    counted = model.with_counts and not model.held_out(text.train_tokens)
    a_token = BASELINES_SECONDS_A_TOKEN if counted else COUNTING_SECONDS_A_TOKEN
    evaluated = min(text.validation_tokens, MOST_EVALUATED) * reading
    if model.reads_counts:
        a_token += PAGE_SECONDS_A_TOKEN
    fixed = CONCLUDING_SECONDS + PAGE_SECONDS + dynamic_seconds(config, text, token_seconds)
    counting = counted_tokens(config, text) * a_token
    return fixed + counting + evaluated + mixing_seconds(config, text)


def dynamic_seconds(config: Config, text: Text, token_seconds: float = 0.0) -> float:
    """How long the dynamic evaluation takes: within `minutes`, at most its share of them."""
    model, joining = config.model, joining_of(config.train.compile)
    reading, counting = DYNAMIC_READ * token_seconds, 0.0
    if model.with_counts:
        reading += 2 * (joining.read + text.vocab_size * joining.read_and_entry)
        counted = counted_tokens(config, text)
        times = min(COUNTED_IN_ALL // counted, text.validation_tokens // FEWEST_BETWEEN)
        counting = times * counted * RECOUNTING_SECONDS_A_TOKEN
    if model.held_out(text.train_tokens):
        reading += mixing_seconds_a_token(text.vocab_size)
    seconds = counting + min(text.validation_tokens, MOST_EVALUATED) * reading
    most = DYNAMIC_SHARE * 60 * config.train.minutes
    return min(seconds, most) if most else seconds


def mixer_pays(config: Config, text: Text, seconds: float) -> bool:
    """Whether, with a mixer, time is left to count half of what n-grams would count without it.

    Both learn from the same tokens. With less, a short run of tiny Shakespeare ends with a higher
    loss than without a mixer, and with more with a lower one. Of a large text ENOUGH_MIXED will do:
    on as many, all of python-docs, a mixer gained 0.116 nats, and n-grams of 2.4 times as many gain
    0.05 (docs/experiments.md, "Runs of a given time").
    """
    alone, mixed = (
        most_counted(config.override(with_mixer=mixer), text, seconds) for mixer in (False, True)
    )
    return mixed >= max(FEWEST_COUNTED, min(ENOUGH_MIXED, alone / 2))


def count_within(config: Config, text: Text, seconds: float) -> Config:
    """The settings, with `counted_tokens` such that time and memory allow it."""
    counted = most_counted(config, text, seconds)
    fewer = FEWEST_COUNTED <= counted < counted_tokens(config, text)
    return config.override(counted_tokens=counted) if fewer else config


def most_counted(config: Config, text: Text, seconds: float) -> int:
    """How many tokens time and memory allow to count; most of the time is left to the network."""
    counted = most = counted_tokens(config, text)
    rest = concluding_seconds(config.override(counted_tokens=1), text)
    free = min(COUNTING_SHARE * seconds, seconds * (1 - TIMING_SHARE) - rest - SHORTEST_SECONDS)
    needed = concluding_seconds(config, text) - rest + counting_seconds(config, text)
    if needed > free:
        counted = int(most * free / needed)
    if text.countable:
        peak, _ = text.countable.bytes(config.model)
        counted = min(counted, int(text.countable.tokens * counting_bytes() / peak))
    return counted


def counting_bytes() -> int:
    """The memory that counting may take on this machine."""
    available = available_bytes()
    return COUNTING_BYTES if available is None else min(COUNTING_BYTES, available // 2)
