"""Dynamic evaluation: each position is predicted from all text before it, and learned afterwards.

A compressor does the same: it begins with the training text, and learns the validation text as it
goes along. The exact loss of `eval.loss` is that of a model which no longer learns.

Shapes in names: S the tokens of a row, T the last of them, V vocabulary, W a block's width.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hornbook.config import ModelConfig
from hornbook.errors import DataError
from hornbook.eval.loss import EVAL_BATCH_LOGITS, MOST_EVALUATED, Evaluation, summarise
from hornbook.kernels.runtime import eagerly
from hornbook.language import msg
from hornbook.models.language_model import Batch, LanguageModel
from hornbook.models.mixer import Mixer
from hornbook.models.mixing import Mixing
from hornbook.models.mixture import GPTWithCounts
from hornbook.models.ngram import NGramLanguageModel, NGramProbs
from hornbook.ngram.model import NGramModel
from hornbook.ngram.tuning import Recipe, choose
from hornbook.text.arrays import Tokens
from hornbook.text.tokenizer import Tokenizer

# So many tokens are predicted with the same weights, then learned in one step.
PIECE = 512
# A step moves each weight by RATE times its gradient, divided by the root of the gradient's mean
# square. MEMORY is that mean's decay. Pulling the weights back to the trained ones, as the source
# does, gained nothing on three texts (docs/experiments.md).
RATE, MEMORY, EPSILON = 5e-4, 0.98, 1e-5
# A network that reads past its block reads so many blocks before a piece: more change no digit.
BLOCKS_BEFORE = 2
# All of an evaluation's n-gram tables together are counted on about so many tokens, and a table is
# made anew after so many at the earliest: a network's context has the text since.
COUNTED_IN_ALL, FEWEST_BETWEEN = 4_000_000, 4096
# Of an evaluation with a time limit this share is for counting, which takes so long a token.
COUNTING_SHARE, RECOUNTING_SECONDS_A_TOKEN = 0.4, 1e-6
# To read a piece takes at most this share of the time to read it and take a step.
READING_SHARE = 0.5
# So many logits of a frozen network are kept for when it rests: 64 MiB.
MOST_KEPT = 2**24

Floats = NDArray[np.float64]
Logits = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Learner(Protocol):
    """A model that reads a text once, from the beginning to the end, and learns as it reads."""

    def nats(self, tokens: Tokens) -> Floats:
        """The loss of each of the next tokens, predicted before any of them is learned: [T]."""
        ...

    def skip(self, tokens: Tokens) -> None:
        """Read the next tokens without a measurement, as context and for the n-grams."""
        ...

    @property
    def may_rest(self) -> bool:
        """Whether something else still learns when the network does not."""
        ...

    @property
    def reads_all(self) -> bool:
        """Whether no piece need be left out, because to read one without the network is quick."""
        ...

    def seconds_at_rest(self, seconds: float) -> float:
        """How long a piece takes once the network rests, which has taken so many `seconds`."""
        ...

    def rest(self) -> None:
        """Let the network take no more steps."""
        ...


@contextmanager
def keeping_logits(model: LanguageModel, tokens: Tokens) -> Iterator[Logits | None]:
    """The logits of a mixer's network before each token but the first: [T-1,V].

    Inside, its exact loss over the tokens fills them. None for a model without a mixer, or where
    they are too many to be kept.
    """
    size = (len(tokens) - 1) * model.vocab_size
    if not isinstance(model, Mixing) or model.mixer_is_off or not 0 < size <= MOST_KEPT:
        yield None
        return
    kept_TV, filled = np.empty((len(tokens) - 1, model.vocab_size), np.float32), 0

    def keep(_module: object, _inputs: object, found: Any) -> None:
        nonlocal filled
        logits_TV = found[0].detach().flatten(0, 1).float().cpu().numpy()
        kept_TV[filled : filled + len(logits_TV)] = logits_TV
        filled += len(logits_TV)

    handle = model.network.register_forward_hook(keep)
    try:
        yield kept_TV
    finally:
        handle.remove()


def evaluate_dynamically(
    model: LanguageModel,
    config: ModelConfig,
    tokenizer: Tokenizer,
    train: Tokens,
    tokens: Tokens,
    *,
    frozen: Floats | None = None,
    frozen_logits: Logits | None = None,
    answers: Mask | None = None,
    max_positions: int = MOST_EVALUATED,
    seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Evaluation:
    """The loss over `tokens`, which follow `train`, of a model that learns as it reads.

    Every token is predicted once, the first one too. The model is changed: give a `copied` one. Of
    a text with more than `max_positions`, or than fit into `seconds`, evenly spaced pieces are
    measured and learned, and n-grams count the rest too. The figure is then an estimate, too high
    rather than too low, with a standard error. Beside a mixer, which learns on, the network stays
    fixed before any piece is left out, and with its `frozen_logits`, as `keeping_logits` has them,
    none is left out. With `frozen`, the frozen model's loss at each token
    but the first, it is the frozen loss and the mean difference from it, which varies far less from
    piece to piece. Of conversations all is read and learned, and the loss is that of the
    `answers`.
    Raises: DataError for an empty text.
    Source: Krause et al. 2018, arXiv:1709.07432.
    """
    if not len(tokens) or not len(train):
        raise DataError(msg("expected a training text and at least 1 token to evaluate, got none"))
    size = piece_size(model)
    ends = None if seconds is None else clock() + seconds
    learner = learner_of(model, config, train, len(tokens), seconds, frozen_logits=frozen_logits)
    starts = range(0, len(tokens), size)
    keep = min(len(starts), max(1, max_positions // size))
    found: list[Floats] = []
    places: list[int] = []
    due, quickest = 0, math.inf
    for number, start in enumerate(starts):
        piece = tokens[start : start + size]
        if number < due:
            learner.skip(piece)
            continue
        began = clock()
        found.append(learner.nats(piece))
        places += range(start, start + len(piece))
        if not learner.reads_all:
            due = len(found) * len(starts) // keep
        elif len(found) == keep:
            learner.rest()
        if ends is not None:
            quickest = min(quickest, max(1e-9, clock() - began))
            left, seconds_left = len(starts) - number - 1, ends - clock()
            if learner.may_rest and seconds_left < left * learner.seconds_at_rest(quickest):
                learner.rest()
                quickest = math.inf
            elif not learner.may_rest and not learner.reads_all:
                affordable = int(seconds_left / quickest)
                due = max(due, number + (-(-left // affordable) if affordable > 0 else left + 1))
    nats = np.concatenate(found)
    if frozen is not None and len(nats) < len(tokens):
        beside = np.concatenate([nats[:1], frozen])
        nats = frozen.mean() + nats - beside[places]
    if answers is not None:
        nats, tokens = nats[answers[places]], tokens[answers]
        if not len(nats):
            raise DataError(msg("no answer in what could be measured"))
    after_train = np.concatenate([train[-1:], tokens])
    return summarise(tokenizer, after_train, nats, None, block_size=size)


def piece_size(model: LanguageModel) -> int:
    """The tokens of a piece: whole blocks, and not too many logits."""
    most = min(PIECE, EVAL_BATCH_LOGITS // model.vocab_size)
    return max(1, most // model.block_size) * model.block_size


def learner_of(
    model: LanguageModel,
    config: ModelConfig,
    train: Tokens,
    length: int,
    seconds: float | None = None,
    *,
    frozen_logits: Logits | None = None,
) -> Learner:
    """The learner of a kind of model, which has read the training text; `length` tokens follow."""
    if isinstance(model, Mixing) and model.mixer_is_off:
        model = model.network
    if isinstance(model, Mixing):
        network = learner_of(model.network, config, train, length, seconds)
        if not isinstance(network, NetworkLearner):
            raise TypeError(f"a mixer beside a {type(model.network).__name__}")
        return MixingLearner(network, model.mixer, frozen_logits)
    counts = model.counts if isinstance(model, GPTWithCounts) else model
    if not isinstance(counts, NGramLanguageModel):
        return NetworkLearner(model, train)
    counted = train[-config.counted_tokens :] if config.with_counts else train
    times = COUNTED_IN_ALL // len(counted)
    if seconds is not None:
        counting = RECOUNTING_SECONDS_A_TOKEN * len(counted)
        # Finding the discounts takes as long as counting once.
        times = min(times, int(COUNTING_SHARE * seconds / counting) - 1)
    every = max(FEWEST_BETWEEN, -(-length // (times + 1))) if times > 0 else length
    growing = GrowingCounts(counts.ngram_model(), config, counted, every)
    if isinstance(model, GPTWithCounts):
        return MixtureLearner(model, train, growing)
    return NGramLearner(growing)


class GrowingCounts:
    """An n-gram model that is counted anew, on all text so far, after every `every` tokens."""

    def __init__(
        self, ngrams: NGramModel, config: ModelConfig, counted: Tokens, every: int
    ) -> None:
        self.ngrams, self.config, self.every = ngrams, config, every
        self.text = [counted]
        self.waiting = 0
        self.recipe: Recipe | None = None

    def read(self, tokens: Tokens) -> None:
        """Read the next tokens, to be counted when it is due."""
        self.text.append(tokens)
        self.waiting += len(tokens)

    def renew(self) -> bool:
        """Count anew if it is due; returns whether the model is a new one."""
        due = self.waiting >= self.every
        if due:
            self.count()
        return due

    def count(self) -> None:
        """Count the text so far, with the run's order and discounts found as in training."""
        wanted, size = self.config, self.ngrams.vocab_size
        if self.recipe is None:
            self.recipe = choose(
                self.text[0], size,
                order=self.ngrams.order, smoothing=wanted.smoothing, add_k=wanted.add_k,
            )  # fmt: skip
        self.text[1:] = [np.concatenate(self.text[1:])]
        # All of a text much longer than what training counted would take memory that is not there.
        most = max(COUNTED_IN_ALL, len(self.text[0]))
        latest = np.concatenate(self.text)[-most:]
        self.ngrams = self.recipe.count(latest, size).rounded()
        self.waiting = 0


class NGramLearner:
    """An n-gram model alone."""

    def __init__(self, counts: GrowingCounts) -> None:
        self.counts = counts
        self.recent = counts.text[0]
        self.may_rest, self.reads_all = False, False

    def nats(self, tokens: Tokens) -> Floats:
        """The loss of each of the next tokens."""
        self.counts.renew()
        found = -self.counts.ngrams.log_probs(tokens, context=self.recent)
        self.skip(tokens)
        return found

    def skip(self, tokens: Tokens) -> None:
        """Read the next tokens without a measurement."""
        self.counts.read(tokens)
        longest = self.counts.ngrams.order - 1
        self.recent = np.concatenate([self.recent[-longest:], tokens])

    def seconds_at_rest(self, seconds: float) -> float:
        """There is no network to rest."""
        return seconds

    def rest(self) -> None:
        """There is no network."""


class NetworkLearner:
    """A network, which takes one gradient step for each piece until it rests."""

    def __init__(self, model: LanguageModel, train: Tokens) -> None:
        self.model = model.eval()
        self.parameters = [each.requires_grad_() for each in self.model.parameters()]
        self.squares = [torch.zeros_like(each) for each in self.parameters]
        self.steps = 0
        self.may_rest, self.reads_all, self.rests = False, False, False
        self.recent = train[-self.context_size :]

    @property
    def context_size(self) -> int:
        """How many tokens before a piece are kept."""
        return self.model.context_size

    def nats(self, tokens: Tokens) -> Floats:
        """The loss of each of the next tokens, which are learned then."""
        logits_TV = self.read(tokens)
        targets_T = torch.from_numpy(tokens.astype(np.int64)).to(logits_TV.device)
        nats_T = F.cross_entropy(logits_TV, targets_T, reduction="none")
        return nats_T.double().cpu().numpy()

    def read(self, tokens: Tokens) -> Tensor:
        """The logits before each of the next tokens, which are learned then: [T] -> [T,V]."""
        device = self.model.device
        row = np.concatenate([self.recent, tokens]).astype(np.int64)
        inputs_S, targets_T = torch.from_numpy(row[:-1]), torch.from_numpy(row[-len(tokens) :])
        inputs_S, targets_T = inputs_S.to(device), targets_T.to(device)
        with eagerly():
            with torch.no_grad():
                logits_TV = self.logits(inputs_S, len(tokens)).float()
            whole = len(tokens) - len(tokens) % self.model.block_size
            if whole and self.parameters and not self.rests:
                self.learn(inputs_S, targets_T[len(tokens) - whole :])
        self.skip(tokens)
        return logits_TV

    def skip(self, tokens: Tokens) -> None:
        """Read the next tokens without a measurement."""
        self.recent = np.concatenate([self.recent, tokens])[-self.context_size :]

    def seconds_at_rest(self, seconds: float) -> float:
        """Half of the time at most: reading is the lesser part of a step."""
        return READING_SHARE * seconds

    def rest(self) -> None:
        """Take no more steps."""
        self.rests = True

    def logits(self, inputs_S: Tensor, T: int) -> Tensor:
        """The logits after each of the last T positions: [S] -> [T,V].

        A model that reads no further than its block reads overlapping blocks, by half.
        """
        S, W, size = len(inputs_S), self.model.block_size, self.model.context_size
        new = T if size >= T + W else max(1, W // 2)
        length = min(size, new + BLOCKS_BEFORE * W)
        rows = [
            (max(0, stop - length), stop, stop - begin)
            for begin in range(S - T, S, new)
            for stop in [min(S, begin + new)]
        ]
        found: list[Tensor] = []
        # Of one shape, but for the last row, and the first ones after a short training text.
        for (_, scored), same in groupby(rows, lambda row: (row[1] - row[0], row[2])):
            batch_BS = torch.stack([inputs_S[start:stop] for start, stop, _ in same])
            logits_BSV, _ = self.model(batch_BS)
            found.append(logits_BSV[:, -scored:].flatten(0, 1))
        return torch.cat(found)

    def loss(self, inputs_S: Tensor, targets_T: Tensor) -> Tensor:
        """The mean loss of whole blocks, read as in training."""
        blocks_BW = inputs_S[-len(targets_T) :].view(-1, self.model.block_size)
        return self.model.training_loss(Batch(blocks_BW, targets_T.view_as(blocks_BW)))

    def learn(self, inputs_S: Tensor, targets_T: Tensor) -> None:
        """One step down the gradient, scaled by its root mean square."""
        with torch.enable_grad():
            gradients = torch.autograd.grad(self.loss(inputs_S, targets_T), self.parameters)
        self.steps += 1
        # One weight after the other: of a large model each list of all takes its size in memory.
        with torch.no_grad():
            for weight, gradient, mean in zip(
                self.parameters, gradients, self.squares, strict=True
            ):
                mean.lerp_(gradient.square(), 1 - MEMORY)
                # As in Adam, what the mean lacks at first is made up for.
                scale = (mean / (1 - MEMORY**self.steps)).sqrt_().add_(EPSILON)
                weight.addcdiv_(gradient, scale, value=-RATE)


class MixtureLearner(NetworkLearner):
    """A network with n-grams: network and gate take steps, and the n-grams are counted anew."""

    def __init__(self, mixture: GPTWithCounts, train: Tokens, counts: GrowingCounts) -> None:
        super().__init__(mixture, train)
        self.mixture, self.counts = mixture, counts
        self.found: NGramProbs | None = None

    def read(self, tokens: Tokens) -> Tensor:
        """The logits before each of the next tokens, which are learned then: [T] -> [T,V]."""
        if self.counts.renew():
            old = self.mixture.counts
            self.mixture.counts = NGramLanguageModel(self.counts.ngrams, self.context_size)
            self.mixture.counts.to(self.mixture.device).kernels = old.kernels
        return super().read(tokens)

    def skip(self, tokens: Tokens) -> None:
        """Read the next tokens without a measurement."""
        super().skip(tokens)
        self.counts.read(tokens)

    def logits(self, inputs_S: Tensor, T: int) -> Tensor:
        """The logits after each of the last T positions: [S] -> [T,V]."""
        mixture, row_BS = self.mixture, inputs_S[None]
        before = BLOCKS_BEFORE * mixture.block_size
        hidden_BTC = mixture.network.hidden(row_BS[:, -T - before :])[:, -T:]
        self.found = mixture.counts.lookup(row_BS, last=T)
        return mixture.join(hidden_BTC, self.found, row_BS)[0]

    def loss(self, inputs_S: Tensor, targets_T: Tensor) -> Tensor:
        """The mean loss of whole blocks, with the n-grams that have not counted them."""
        blocks_BW = inputs_S[-len(targets_T) :].view(-1, self.mixture.block_size)
        hidden_BTC = self.mixture.network.hidden(blocks_BW).flatten(0, 1)[None]
        found = self.found or self.mixture.counts.lookup(inputs_S[None], last=len(targets_T))
        found = NGramProbs(*(each[:, -len(targets_T) :] for each in found))
        return F.cross_entropy(self.mixture.join(hidden_BTC, found, inputs_S[None])[0], targets_T)


class MixingLearner:
    """A network that learns on, and a mixer that reads its probabilities and learns on too.

    Once the network rests, the mixer reads what it said when it was frozen, if that is kept.
    """

    def __init__(
        self, network: NetworkLearner, mixer: Mixer, frozen_logits: Logits | None = None
    ) -> None:
        self.network = network
        self.reader = mixer.learner()
        self.frozen_logits = frozen_logits
        self.reads_all = frozen_logits is not None
        self.place, self.quickest = 0, math.inf

    def nats(self, tokens: Tokens) -> Floats:
        """The loss of each of the next tokens, which are learned then."""
        start, self.place = self.place, self.place + len(tokens)
        if self.frozen_logits is None or not self.network.rests:
            logits_TV = self.network.read(tokens).cpu().numpy()
            began = time.monotonic()
            found = self.reader.read(tokens, logits_TV)
            self.quickest = min(self.quickest, time.monotonic() - began)
            return found
        first = self.reader.read(tokens[:1]) if start == 0 else np.empty(0)
        rest, before = tokens[len(first) :], start + len(first) - 1
        logits_TV = self.frozen_logits[before : before + len(rest)]
        return np.concatenate([first, self.reader.read(rest, logits_TV)])

    def skip(self, tokens: Tokens) -> None:
        """Read the next tokens without a measurement."""
        self.place += len(tokens)
        self.network.skip(tokens)
        self.reader.read(tokens)

    @property
    def may_rest(self) -> bool:
        """The mixer learns without the network's steps."""
        return not self.network.rests

    def seconds_at_rest(self, seconds: float) -> float:
        """With frozen logits only the mixer reads."""
        return self.quickest if self.reads_all else self.network.seconds_at_rest(seconds)

    def rest(self) -> None:
        """Let the network take no more steps."""
        self.network.rest()


def copied(model: LanguageModel) -> LanguageModel:
    """A copy with weights of its own, which shares n-gram tables: they never change."""
    if isinstance(model, Mixing):
        mixing = Mixing(copied(model.network), model.mixer.copy()).train(model.training)
        mixing.mixer_is_off = model.mixer_is_off
        return mixing
    shared = [part for part in model.modules() if isinstance(part, NGramLanguageModel)]
    return copy.deepcopy(model, {id(part): part for part in shared})
