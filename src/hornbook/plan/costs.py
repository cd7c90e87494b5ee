"""What a run takes beside the network's training: counting n-grams, the exact loss, the report."""

from dataclasses import dataclass

from hornbook.config import Config
from hornbook.eval.dynamic import COUNTED_IN_ALL, FEWEST_BETWEEN, RECOUNTING_SECONDS_A_TOKEN
from hornbook.eval.loss import MOST_EVALUATED
from hornbook.models.first_pass import beginning, most_read, seconds_a_token
from hornbook.plan.memory import Countable, available_bytes, largest

# The least time that is left to training.
SHORTEST_SECONDS = 2.0
# The share of the time that timing steps on this machine may take.
TIMING_SHARE = 0.03
# And that of the dynamic evaluation, which measures evenly spaced pieces where all do not fit.
DYNAMIC_SHARE = 0.05
# It reads every token twice, once to predict and once to learn it, the first with two blocks before
# every 512 tokens: in tokens of training.
DYNAMIC_READ = 3.0
# After the last step, measured on two cores with tiny Shakespeare: the report card, and counting
# the training text. Beside a network it is counted before the first step, six times over.
CONCLUDING_SECONDS = 6.0
# What a mixer takes longer beside a network, a token: on tiny Shakespeare, whose exact loss takes
# 35e-6 s a token and whose text's end 31e-6.
BESIDE_A_NETWORK = 24e-6
COUNTING_SECONDS_A_TOKEN = 1.6e-6
JOINT_COUNTING_SECONDS_A_TOKEN, BASELINES_SECONDS_A_TOKEN = 3.2e-6, 0.4e-6
# A sample and two checkpoints of a small network.
SAVING_SECONDS = 0.05
# The page, most of it to prune n-grams and to say how often each stood (a million characters).
PAGE_SECONDS, PAGE_SECONDS_A_TOKEN = 0.4, 1.0e-6
# Of the report card, what it shows of the text alone: compressors, copies. A run of up to so many
# minutes with a mixer measures fewer compressors and contexts (docs/experiments.md).
TEXTUAL_SECONDS, BRIEF_TEXTUAL_SECONDS, BRIEF_MINUTES = 2.0, 0.8, 0.25
CONTEXT_SECONDS = 0.8
# And it may end so late, rather than read too little of its text to be worth it: ten seconds of
# tiny Shakespeare are 13.3, and the model is at 1.352 nats a character (1.458 without a mixer).
LATE_SECONDS = 4.8
# Importing torch, beside which a mixer begins to read.
IMPORTING_SECONDS = 1.5
# The most of the time that reading the text may take; a mixer learns more of it than a network.
COUNTING_SHARE, MIXING_SHARE = 0.4, 0.6
# Counting may take so much memory, or half of what is there. The goal is 4 GB for a text of 100 MB;
# that command's peak was not measured.
COUNTING_BYTES, FEWEST_COUNTED = 2_000_000_000, 10_000
# Of a large text, see `mixer_pays`.
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


def first_pass_seconds(config: Config, text: Text) -> float:
    """How long the mixer reads the training text but for its end, on a core of its own."""
    held_out = config.model.held_out(text.train_tokens)
    tokens = beginning(counted_tokens(config, text), held_out) if held_out else 0
    return tokens * seconds_a_token(text.vocab_size)


def mixing_seconds(config: Config, text: Text) -> float:
    """How long the mixer reads the end of the training text, beside a network, and validation."""
    held_out = config.model.held_out(text.train_tokens)
    if not held_out:
        return 0.0
    counted = counted_tokens(config, text)
    read = counted - beginning(counted, held_out) + min(text.validation_tokens, MOST_EVALUATED)
    return read * (BESIDE_A_NETWORK + seconds_a_token(text.vocab_size))


def brief(config: Config, text: Text) -> bool:
    """Whether a run is so short that its card leaves out what takes long."""
    short = 0 < config.train.minutes <= BRIEF_MINUTES
    return short and config.model.held_out(text.train_tokens) > 0


def cut(config: Config, text: Text) -> bool:
    """Whether a mixer reads a part of the text only; then it reads beside all else, steps too."""
    partly = counted_tokens(config, text) < text.train_tokens
    return partly and config.model.held_out(text.train_tokens) > 0


def textual_seconds(config: Config, text: Text) -> float:
    """How long what follows from the text alone takes; beside a mixer on another core."""
    # N-grams beside a mixer have not counted all of the text, and the baselines count it anew.
    counted = config.model.with_counts and not config.model.held_out(text.train_tokens)
    a_token = BASELINES_SECONDS_A_TOKEN if counted else COUNTING_SECONDS_A_TOKEN
    fixed = BRIEF_TEXTUAL_SECONDS if brief(config, text) else TEXTUAL_SECONDS
    return fixed + a_token * counted_tokens(config, text)


def reading_left(config: Config, text: Text) -> float:
    """What of the first pass finds no other work beside it, which would leave it a core."""
    seconds, beside = first_pass_seconds(config, text), counting_seconds(config, text)
    if cut(config, text):  # with what follows from the text after it
        seconds, beside = seconds + textual_seconds(config, text), beside + SHORTEST_SECONDS
    else:
        beside += textual_seconds(config, text)
    return max(0.0, seconds - beside - IMPORTING_SECONDS)


def around_seconds(config: Config, text: Text) -> float:
    """What the plan of a network leaves to all that comes before and after its steps."""
    before = counting_seconds(config, text) + reading_left(config, text)
    return before + concluding_seconds(config, text)


def counted_tokens(config: Config, text: Text) -> int:
    """How many tokens of a text n-grams are counted on."""
    return min(text.train_tokens, config.model.counted_tokens)


def counting_seconds(config: Config, text: Text) -> float:
    """How long n-grams are counted before the first step, beside a network."""
    joint = config.model.with_counts
    return JOINT_COUNTING_SECONDS_A_TOKEN * counted_tokens(config, text) if joint else 0.0


def concluding_seconds(config: Config, text: Text, token_seconds: float = 0.0) -> float:
    """How long the exact loss, the baselines and the report take after the last step.

    `token_seconds` is what a token takes in training. Of the mixer's first pass it has what is read
    beside them.
    """
    model, reading = config.model, reading_seconds(config, text, token_seconds)
    evaluated = min(text.validation_tokens, MOST_EVALUATED) * reading
    fixed = CONCLUDING_SECONDS - TEXTUAL_SECONDS + dynamic_seconds(config, text, token_seconds)
    if not cut(config, text):
        fixed += textual_seconds(config, text)
    if brief(config, text):
        fixed -= CONTEXT_SECONDS + LATE_SECONDS
    if not model.held_out(text.train_tokens):  # else it is written beside the dynamic evaluation
        fixed += PAGE_SECONDS
        if model.reads_counts:
            fixed += PAGE_SECONDS_A_TOKEN * counted_tokens(config, text)
    return fixed + evaluated + mixing_seconds(config, text)


def reading_seconds(config: Config, text: Text, token_seconds: float) -> float:
    """What a token of an evaluation takes, without a mixer."""
    joining = joining_of(config.train.compile)
    seconds = joining.network_read * token_seconds
    if config.model.with_counts:
        seconds += joining.read + text.vocab_size * joining.read_and_entry
    return seconds


def evaluation_seconds(config: Config, text: Text, token_seconds: float) -> float:
    """How long one of the evaluations between steps takes, with its sample and checkpoint."""
    positions = min(config.train.eval_positions, text.validation_tokens)
    return SAVING_SECONDS + positions * reading_seconds(config, text, token_seconds)


def dynamic_seconds(config: Config, text: Text, token_seconds: float = 0.0) -> float:
    """How long the dynamic evaluation takes: within `minutes`, at most its share of them."""
    model, joining = config.model, joining_of(config.train.compile)
    reading, counting = DYNAMIC_READ * token_seconds, 0.0
    if model.with_counts:
        reading += 2 * (joining.read + text.vocab_size * joining.read_and_entry)
        counted = counted_tokens(config, text)
        times = min(COUNTED_IN_ALL // counted, text.validation_tokens // FEWEST_BETWEEN)
        counting = times * counted * RECOUNTING_SECONDS_A_TOKEN
    most, read = (
        DYNAMIC_SHARE * 60 * config.train.minutes,
        min(text.validation_tokens, MOST_EVALUATED),
    )
    if model.held_out(text.train_tokens):
        reading += seconds_a_token(text.vocab_size)
        most = most and max(most, read * seconds_a_token(text.vocab_size))  # a mixer reads all
    seconds = counting + read * reading
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
    most = counted_tokens(config, text)
    if config.train.minutes and config.model.held_out(text.train_tokens):
        read = min(text.validation_tokens, MOST_EVALUATED)
        most = min(most, most_read(config.train.minutes, read, text.vocab_size))
    if text.countable:
        peak, _ = text.countable.bytes(config.model)
        most = min(most, int(text.countable.tokens * counting_bytes() / peak))
    rest = around_seconds(config.override(counted_tokens=1), text)
    share = MIXING_SHARE if config.model.held_out(text.train_tokens) else COUNTING_SHARE
    free = min(share * seconds, seconds * (1 - TIMING_SHARE) - rest - SHORTEST_SECONDS)

    def fits(counted: int) -> bool:
        counting = config.override(counted_tokens=counted)
        return around_seconds(counting, text) - rest <= free

    return most if most and fits(most) else largest(most, FEWEST_COUNTED, fits)


def counting_bytes() -> int:
    """The memory that counting may take on this machine."""
    available = available_bytes()
    return COUNTING_BYTES if available is None else min(COUNTING_BYTES, available // 2)
