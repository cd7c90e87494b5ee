"""The baselines of a run: the loss that n-grams of its text reach without a network."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hornbook.config import Config, ModelConfig
from hornbook.errors import DataError
from hornbook.eval.loss import MOST_EVALUATED, per_char
from hornbook.models.language_model import LanguageModel
from hornbook.models.mixture import GPTWithCounts
from hornbook.models.ngram import NGramLanguageModel
from hornbook.ngram.model import NGramModel
from hornbook.ngram.tuning import choose, tune
from hornbook.text.arrays import Tokens
from hornbook.text.corpus import Corpus
from hornbook.text.dataset import Dataset, prepare

# On tiny Shakespeare order 10 is 0.001 nats better.
LONGEST_NGRAM = 8
COUNTED_CHARACTERS = 1_000_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Baselines:
    """What n-grams reach without a network: nats per character on the same validation text.

    `ngram_nats` has the best n-gram model's loss at every token.
    """

    uniform: float
    unigram: float
    bigram: float
    ngram: float
    ngram_order: int
    counted_tokens: int
    ngram_nats: Floats = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, float | int]:
        """The figures as JSON has them."""
        names = ("uniform", "unigram", "bigram", "ngram", "ngram_order")
        return {name: getattr(self, name) for name in names}

    def rows(self) -> dict[str, float]:
        """The losses by the names of their rows in the table of all predictors."""
        best = {} if self.ngram_order == 2 else {f"{self.ngram_order}-gram counts": self.ngram}
        others = {"bigram counts": self.bigram, "unigram counts": self.unigram}
        return best | others | {"knowing nothing": self.uniform}


def own_ngrams(model: LanguageModel, config: ModelConfig, dataset: Dataset) -> NGramModel | None:
    """A model's own n-grams, where they are the best n-gram model of the baselines' text.

    To tune and count them again would take 1.3 s of every run on tiny Shakespeare.
    """
    # The last tokens of the text were held out from n-grams beside a mixer.
    if config.held_out(len(dataset.train)):
        return None
    ngrams = model.counts if isinstance(model, GPTWithCounts) else model
    if not isinstance(ngrams, NGramLanguageModel) or config.order:
        return None
    same_text = config.with_counts or len(dataset.train) <= config.counted_tokens
    return ngrams.ngram_model() if same_text and config.smoothing == "kneser-ney" else None


def count_baselines(model: LanguageModel, config: ModelConfig, dataset: Dataset) -> Baselines:
    """Unigrams, bigrams and the best n-gram model, counted and tuned on the training text.

    Of a large text they count the last `counted_tokens`. `model` is the one to compare with them:
    its own n-grams are not counted again.
    """
    size = dataset.tokenizer.vocab_size
    scale = per_char(dataset.tokenizer, dataset.measured)
    train = dataset.train[-config.counted_tokens :]
    validation = spread(dataset.validation, MOST_EVALUATED)
    if dataset.answers is not None:
        validation = dataset.validation[:MOST_EVALUATED]

    def nats(ngrams: NGramModel) -> Floats:
        # As for the network: every token but the first, which has nothing before it.
        return dataset.scored(-ngrams.log_probs(validation[1:], context=validation[:1]))

    bigram = NGramModel.fit(train, size, order=2)
    best = own_ngrams(model, config, dataset)
    if best is None:
        try:
            order, discounts, _ = tune(train, size, max_order=LONGEST_NGRAM)
            best = NGramModel.fit(train, size, order=order, discounts=discounts)
        except DataError:  # too little text to hold any out for tuning
            best = bigram
    by_token = nats(best)
    return Baselines(
        uniform=scale * float(np.log(size)),
        unigram=scale * float(nats(NGramModel.fit(train, size, order=1)).mean()),
        bigram=scale * float(nats(bigram).mean()),
        ngram=scale * float(by_token.mean()),
        ngram_order=best.order,
        counted_tokens=len(train),
        ngram_nats=by_token,
    )


def character_ngrams(corpus: Corpus, config: Config) -> float:
    """The loss in nats per character of the best n-grams of a text's characters.

    For a model with other tokens, whose own n-grams are poorer than those of characters. Of a large
    text they count the last COUNTED_CHARACTERS.
    """
    characters = replace(config.data, tokenizer="char")
    dataset = prepare(corpus, characters)
    train, size = dataset.train[-COUNTED_CHARACTERS:], dataset.tokenizer.vocab_size
    ngrams = choose(train, size, order=0).count(train, size)
    validation = spread(dataset.validation, COUNTED_CHARACTERS // 10)
    return -float(ngrams.log_probs(validation[1:], context=validation[:1]).mean())


def spread(tokens: Tokens, most: int, stretches: int = 100) -> Tokens:
    """All tokens, or `most` of them in evenly spaced stretches, joined."""
    if len(tokens) <= most:
        return tokens
    length = most // stretches
    starts = [i * (len(tokens) - length) // (stretches - 1) for i in range(stretches)]
    return np.concatenate([tokens[start : start + length] for start in starts])
