"""Which tokenizer a run takes: "auto" is what a trial on held-out text says is best."""

from hornbook.config import Request
from hornbook.eval.tokenization import Trial, attempt
from hornbook.text.corpus import Corpus
from hornbook.text.store import StoreCorpus
from hornbook.text.tokenizer import KINDS

# The share of a run's time that a trial takes on one core: to choose, and to advise where
# characters are taken by default. Half as fast a machine as the one measured keeps below 5%.
CHOOSING_SHARE, ADVISING_SHARE = 0.04, 0.01
# What a mixer, or n-grams, take to read a character or a byte, in whichever tokens.
MIXING_SECONDS_A_READ, COUNTING_SECONDS_A_READ = 15e-6, 3e-6
# A run of so many steps is tried as long as one of so many minutes.
USUAL_MINUTES = 2.0


def tokenized(request: Request, corpus: Corpus) -> tuple[Request, Trial | None]:
    """The request with a tokenizer in place of "auto", and the trial where there was one.

    There is one by default too, for runs limited by time: the advice at the end says what BPE would
    give. A store has its tokenizer.
    Raises: DataError if a file has changed.
    """
    data, model, minutes = request.config.data, request.config.model, request.config.train.minutes
    auto = data.tokenizer == "auto"
    if isinstance(corpus, StoreCorpus):
        kind = corpus.opened.tokenizer.kind
        return (request.layer({"flag": {"tokenizer": kind}}) if auto else request), None
    by_default = data.tokenizer == "char" and not request.requested("tokenizer")
    advised = by_default and minutes and model.spec.joins_counts and model.pretrained is None
    if not (auto or advised):
        return request, None
    kinds, share = (KINDS, CHOOSING_SHARE) if auto else (("char", "bpe"), ADVISING_SHARE)
    # A plan for minutes joins a mixer by itself; plan/costs.py has when it does not pay.
    planned = minutes and model.spec.joins_counts and not request.requested("with_counts")
    mixed = bool(model.with_mixer or planned)
    seconds_a_read = MIXING_SECONDS_A_READ if mixed else COUNTING_SECONDS_A_READ
    to_read = int(share * 60 * (minutes or USUAL_MINUTES) / seconds_a_read)
    trial = attempt(corpus, data, kinds, to_read, mixed=mixed)
    if auto:
        return request.layer({"flag": {"tokenizer": trial.best}}), trial
    return request, trial if trial.nats_per_char else None
