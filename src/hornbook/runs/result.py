"""How a run ended, in figures: the exact loss, what counting reaches, a sample, a diagnosis."""

import json
import os
import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hornbook.text.arrays import Tokens
from hornbook.config import Config, SamplingConfig
from hornbook.ngram.model import NGramModel
from hornbook.text.dataset import Dataset, prepare
from hornbook.eval.diagnosis import Diagnosis, curve, diagnose
from hornbook.storage.files import read_json
from hornbook.errors import DataError
from hornbook.eval.loss import MOST_EVALUATED, Evaluation, losses, per_char, summarise
from hornbook.infer.generate import stream
from hornbook.models import GPTWithCounts, NGramLanguageModel
from hornbook.infer.torch_decoder import snapshot
from hornbook.runs.run import RunFolder, TrainedModel, check_same_text, load
from hornbook.training import Trainer
from hornbook.storage.disk import write_atomically
from hornbook.text.corpus import Corpus, read_corpus
from hornbook.ngram.tuning import tune

SAMPLE_TOKENS = 500
# The baselines' longest; on tiny Shakespeare order 10 is 0.001 nats better.
LONGEST_NGRAM = 8

Floats = NDArray[np.float64]
ModelKind = Literal["network", "counts", "network and counts"]


@dataclass(frozen=True)
class Baselines:
    """What needs no network: nats per character on the same validation text, by counting.

    `ngram_nats` has the best n-gram model's loss at every token, where it has been counted.
    """

    uniform: float
    unigram: float
    bigram: float
    ngram: float
    ngram_order: int
    ngram_nats: Floats | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, float | int]:
        """The figures as JSON has them."""
        return {
            "uniform": self.uniform,
            "unigram": self.unigram,
            "bigram": self.bigram,
            "ngram": self.ngram,
            "ngram_order": self.ngram_order,
        }


@dataclass(frozen=True)
class Result:
    """A run in figures, with all that they were taken from.

    `nats` are the losses of the tokens in `measured`, all but the first: the validation part, or
    evenly spaced stretches of a large one.
    """

    trained: TrainedModel
    corpus: Corpus
    dataset: Dataset
    steps: int
    seconds: float
    evaluation: Evaluation
    measured: Tokens
    nats: Floats
    baselines: Baselines
    sample: str
    peak_memory_mib: float | None = None
    energy_joules: float | None = None
    finished: bool = True

    @property
    def folder(self) -> RunFolder:
        """Where the run is."""
        return self.trained.folder

    @property
    def step(self) -> int:
        """The step of the weights that were measured: the best."""
        return self.trained.step

    @property
    def tokens(self) -> int:
        """How many tokens were read in training."""
        config = self.trained.config
        per_step = config.train.batch_size * config.train.gradient_accumulation
        return self.steps * per_step * config.model.block_size

    @property
    def parameters(self) -> int:
        """Distinct trainable numbers."""
        return self.trained.model.parameter_count

    @property
    def kind(self) -> ModelKind:
        """Whether the figures are a network's, those of counts, or of both."""
        return kind_of(self.trained.config)

    @property
    def tokens_per_char(self) -> float:
        """Turns losses per token into losses per character."""
        return per_char(self.trained.tokenizer, self.dataset.validation)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What the curve says."""
        baselines = self.baselines
        return diagnose(
            curve(self.folder.metrics_rows()),
            self.trained.config,
            tokens_per_char=self.tokens_per_char,
            passes=self.tokens / len(self.dataset.train),
            ahead_of_counts=baselines.ngram - self.evaluation.nats_per_char,
            order=baselines.ngram_order,
        )

    def as_dict(self) -> dict[str, object]:
        """The figures as `train --json` prints them."""
        return {
            "run": str(self.folder.path),
            "kind": self.kind,
            "model": self.trained.config.model.kind,
            "finished": self.finished,
            "steps": self.steps,
            "best_step": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 2),
            "parameters": self.parameters,
            "peak_memory_mib": self.peak_memory_mib,
            "energy_joules": self.energy_joules,
            **{f"val_{name}": value for name, value in self.evaluation.as_dict().items()},
            "baselines_nats_per_char": self.baselines.as_dict(),
            "baselines_counted_tokens": min(
                len(self.dataset.train), self.trained.config.model.counted_tokens
            ),
            "diagnosis": self.diagnosis.as_dict(),
        }


def kind_of(config: Config) -> ModelKind:
    """Whether settings make a network, a counting model, or both in one."""
    if config.model.model == "ngram":
        return "counts"
    return "network and counts" if config.model.with_counts else "network"


def conclude(
    trainer: Trainer, baselines: Baselines | None = None, *, energy_joules: float | None = None
) -> Result:
    """Measure the best weights exactly, count the baselines, write sample and figures.

    Of a large text the loss is an estimate, and the baselines count what comes last in training.
    `baselines` are those of the same text and tokens, where they have been counted already.
    Raises: CheckpointError when the run cannot be read back, or another process is training it.
    """
    folder = trainer.folder
    with trainer.lock:
        result = measure(
            load(folder.path, device=trainer.machine.device.value),
            trainer.corpus,
            trainer.dataset,
            steps=trainer.state.step,
            seconds=trainer.state.seconds,
            baselines=baselines,
            peak_memory_mib=peak_memory_mib(),
            energy_joules=energy_joules,
        )
        write_atomically(folder.sample, (result.sample + "\n").encode())
        write_atomically(folder.result, json.dumps(result.as_dict(), indent=1).encode())
    return result


def write_sample(
    best: TrainedModel, *, temperature: float = 0.8, max_new_tokens: int = SAMPLE_TOKENS
) -> str:
    """What the finished model writes; `hornbook sample --temperature 0.8` writes the same."""
    pieces = stream(
        snapshot(best.model),
        best.tokenizer,
        max_new_tokens=max_new_tokens,
        sampling=SamplingConfig(temperature=temperature),
    )
    return "".join(pieces)


def revisit(path: str | os.PathLike[str], *, device: str = "cpu") -> Result:
    """Measure a run again from its folder, finished or not.

    Raises: CheckpointError when there is no run, nothing of it is saved, or its text has changed.
    """
    trained = load(path, device=device)
    folder, config = trained.folder, trained.config
    corpus = read_corpus(config.data.corpus, encoding=config.data.encoding)
    check_same_text(corpus, folder)
    rows = list(folder.metrics_rows())
    kept = kept_figures(folder)
    peak, energy = kept.get("peak_memory_mib"), kept.get("energy_joules")
    return measure(
        trained,
        corpus,
        prepare(corpus, config.data, trained.tokenizer),
        steps=rows[-1]["step"] if rows else trained.step,
        seconds=rows[-1]["seconds"] if rows else 0.0,
        peak_memory_mib=peak if isinstance(peak, (int, float)) else None,
        energy_joules=energy if isinstance(energy, (int, float)) else None,
        finished=bool(kept),
    )


def kept_figures(folder: RunFolder) -> dict[str, object]:
    """What `result.json` says; nothing for a run that has not ended."""
    try:
        figures = read_json(folder.result)
    except (OSError, ValueError):
        return {}
    return figures if isinstance(figures, dict) else {}


def measure(
    trained: TrainedModel,
    corpus: Corpus,
    dataset: Dataset,
    *,
    steps: int,
    seconds: float,
    baselines: Baselines | None = None,
    peak_memory_mib: float | None = None,
    energy_joules: float | None = None,
    finished: bool = True,
) -> Result:
    """A model's exact loss at every token of the validation part, and a sample of its writing."""
    size, tokens = trained.config.model.context_size, spread(dataset.validation, MOST_EVALUATED)
    nats = losses(trained.model, tokens, block_size=size)
    return Result(
        trained=trained,
        corpus=corpus,
        dataset=dataset,
        steps=steps,
        seconds=seconds,
        evaluation=summarise(trained.tokenizer, dataset.validation, nats, None, block_size=size),
        measured=tokens,
        nats=nats,
        baselines=baselines or count_baselines(trained, dataset),
        sample=write_sample(trained),
        peak_memory_mib=peak_memory_mib,
        energy_joules=energy_joules,
        finished=finished,
    )


def chosen_counts(trained: TrainedModel, dataset: Dataset) -> NGramModel | None:
    """A model's own counts, where they are the best n-gram model of the text that baselines count.

    To choose and count them again would take 1.3 s of every run on tiny Shakespeare.
    """
    config, model = trained.config.model, trained.model
    counts = model.counts if isinstance(model, GPTWithCounts) else model
    if not isinstance(counts, NGramLanguageModel) or config.order:
        return None
    same_text = config.with_counts or len(dataset.train) <= config.counted_tokens
    return counts.ngram_model() if same_text and config.smoothing == "kneser-ney" else None


def count_baselines(trained: TrainedModel, dataset: Dataset) -> Baselines:
    """Unigram and bigram counts, and the best n-gram model; tuned on training text alone."""
    size = dataset.tokenizer.vocab_size
    scale = per_char(dataset.tokenizer, dataset.validation)
    train = dataset.train[-trained.config.model.counted_tokens :]
    validation = spread(dataset.validation, MOST_EVALUATED)

    def nats(model: NGramModel) -> Floats:
        # Like the network: every token but the first, which it can read but not be asked.
        first, rest = validation[:1], validation[1:]
        return -model.log_probs(rest, context=first)

    bigram = NGramModel.fit(train, size, order=2)
    best = chosen_counts(trained, dataset)
    if best is None:
        try:
            order, discounts, _ = tune(train, size, max_order=LONGEST_NGRAM)
            best = NGramModel.fit(train, size, order=order, discounts=discounts)
        except DataError:
            # Too little text to hold any out: the bigram is all that can be counted.
            best = bigram
    by_token = nats(best)
    unigram = NGramModel.fit(train, size, order=1)
    return Baselines(
        uniform=scale * float(np.log(size)),
        unigram=scale * float(nats(unigram).mean()),
        bigram=scale * float(nats(bigram).mean()),
        ngram=scale * float(by_token.mean()),
        ngram_order=best.order,
        ngram_nats=by_token,
    )


def spread(tokens: Tokens, most: int, stretches: int = 100) -> Tokens:
    """The tokens, or of many as few as `most`, in evenly spaced stretches joined."""
    if len(tokens) <= most:
        return tokens
    length = most // stretches
    starts = [i * (len(tokens) - length) // (stretches - 1) for i in range(stretches)]
    return np.concatenate([tokens[start : start + length] for start in starts])


def peak_memory_mib() -> float | None:
    """The most memory this process has held, where the system tells."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2), 1)
