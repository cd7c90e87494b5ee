"""The figures of a run: exact loss, baselines, a sample, and a diagnosis."""

import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from hornbook.config import Family
from hornbook.errors import CheckpointError
from hornbook.eval.baselines import Baselines, Floats, count_baselines, spread
from hornbook.eval.diagnosis import Diagnosis, curve, diagnose
from hornbook.eval.dynamic import keeping_logits
from hornbook.eval.loss import MOST_EVALUATED, Evaluation, losses, per_char, summarise
from hornbook.eval.split import Split, measure_split
from hornbook.eval.tokenization import Trial
from hornbook.infer.sample import Sample, generate_sample
from hornbook.parallel import ALONE, Ranks
from hornbook.runs.folder import RunFolder, run_text
from hornbook.runs.load import TrainedModel, load
from hornbook.storage.files import read_json
from hornbook.text.arrays import Tokens
from hornbook.text.corpus import Corpus
from hornbook.text.dataset import Dataset, prepare
from hornbook.text.store import what_was_read

SAMPLE_TOKENS = 500
# Where environment.json and result.json have the trial of tokenizers.
TRIAL = "tokenizer_trial"
# What a run's figures have of its dynamic evaluation.
DYNAMIC_FIGURES = ("nats_per_char", "positions", "standard_error")


@dataclass(frozen=True)
class Result:
    """The figures of a run, with what they were measured on.

    `nats` has the loss of each token in `measured` but the first. That is the validation part, or
    evenly spaced stretches of a large one; of conversations the answers, one after the other.
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
    split: Split
    sample: Sample
    dynamic: Evaluation
    peak_memory_mib: float | None = None
    energy_joules: float | None = None
    finished: bool = True
    steps_why: str = ""
    # Of a model that began as another: where from, and the losses before and after.
    pretrained: dict[str, Any] | None = None

    @property
    def planned_steps(self) -> int:
        """How many steps the run's settings or its plan had."""
        return self.trained.config.train.steps

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return self.trained.folder

    @property
    def step(self) -> int:
        """The step of the best weights, which were measured."""
        return self.trained.step

    @property
    def tokens(self) -> int:
        """The number of tokens that training read."""
        return self.steps * self.trained.config.tokens_per_step

    @property
    def parameters(self) -> int:
        """The number of distinct trainable parameters."""
        return self.trained.model.parameter_count

    @property
    def kind(self) -> Family:
        """Whether the model is a network, an n-gram model, or both."""
        return self.trained.config.model.family

    @property
    def tokens_per_char(self) -> float:
        """The factor from losses per token to losses per character."""
        return per_char(self.trained.tokenizer, self.dataset.measured)

    @property
    def store(self) -> dict[str, Any] | None:
        """Of a run on a store: its size, the samples that all but training reads, what was read."""
        store, config = self.dataset.store, self.trained.config
        if store is None:
            return None
        blocks = self.tokens // config.model.block_size
        sampled = len(self.dataset.train), len(self.dataset.validation)
        return {
            "sha256": store.sha256,
            "train_tokens": self.dataset.train_tokens,
            "validation_tokens": len(store.stream("validation")),
            **dict(
                zip(("sampled_train_tokens", "sampled_validation_tokens"), sampled, strict=True)
            ),
            "read": what_was_read(store, config.data.mix, blocks, config.model.block_size),
        }

    @cached_property
    def new_nats_per_char(self) -> float | None:
        """The loss on what is not copied from the training text.

        None where everything is, and of conversations.
        """
        if self.dataset.answers is not None:
            return None
        return self.split.copied.elsewhere(self.trained.tokenizer, self.measured, self.nats)

    @cached_property
    def trial(self) -> Trial | None:
        """The trial of tokenizers before the run, where there was one."""
        with suppress(CheckpointError):  # a run is shown without it
            return Trial.of(self.folder.environment_facts().get(TRIAL))
        return None

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """The diagnosis of the training curve."""
        return diagnose(
            curve(self.folder.metrics_rows()),
            self.trained.config,
            tokens_per_char=self.tokens_per_char,
            passes=self.tokens / self.dataset.train_tokens,
            loss=self.evaluation.nats_per_char,
            baselines=self.baselines,
            copied=self.split.copied.much,
            trial=self.trial,
        )

    def as_dict(self) -> dict[str, object]:
        """The figures as `train --json` prints them."""
        dynamic = self.dynamic.as_dict()
        return {
            "run": str(self.folder.path),
            "kind": self.kind,
            "model": self.trained.config.model.kind,
            "finished": self.finished,
            "steps": self.steps,
            "planned_steps": self.planned_steps,
            "steps_why": self.steps_why,
            "best_step": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 2),
            "parameters": self.parameters,
            "peak_memory_mib": self.peak_memory_mib,
            "energy_joules": self.energy_joules,
            **{f"val_{name}": value for name, value in self.evaluation.as_dict().items()},
            **{f"val_dynamic_{name}": dynamic[name] for name in DYNAMIC_FIGURES},
            "baselines_nats_per_char": self.baselines.as_dict(),
            "baselines_counted_tokens": self.baselines.counted_tokens,
            "split": self.split.as_dict() | {"new_nats_per_char": self.new_nats_per_char},
            "diagnosis": asdict(self.diagnosis),
            "sample": asdict(self.sample),
            "skipped_files": [asdict(each) for each in self.corpus.skipped],
            "tokenizer": self.trained.config.data.tokenizer,
            **({TRIAL: self.trial.as_dict()} if self.trial else {}),
            **({"pretrained": self.pretrained} if self.pretrained else {}),
            **({"store": self.store} if self.store else {}),
        }


def revisit(
    path: str | os.PathLike[str], *, device: str = "cpu", text: str | None = None
) -> Result:
    """Measure a run again from its folder, finished or not.

    `text` says where its text is now, if it was moved.

    Raises: CheckpointError when there is no run, it has no checkpoint, or its text has changed.
    """
    trained = load(path, device=device, text=text)
    folder, config = trained.folder, trained.config
    corpus = run_text(folder, config)
    rows = list(folder.metrics_rows())
    kept = kept_figures(folder)
    peak, energy = kept.get("peak_memory_mib"), kept.get("energy_joules")
    why, started = kept.get("steps_why"), kept.get("pretrained")
    return measure(
        trained,
        corpus,
        prepare(corpus, config.data, trained.tokenizer),
        steps=rows[-1]["step"] if rows else trained.step,
        seconds=rows[-1]["seconds"] if rows else 0.0,
        peak_memory_mib=peak if isinstance(peak, (int, float)) else None,
        energy_joules=energy if isinstance(energy, (int, float)) else None,
        finished=bool(kept),
        steps_why=why if isinstance(why, str) else "",
        pretrained=started if isinstance(started, dict) else None,
    )


def kept_figures(folder: RunFolder) -> dict[str, object]:
    """The contents of `result.json`; empty for an unfinished run."""
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
    split: Split | None = None,
    peak_memory_mib: float | None = None,
    energy_joules: float | None = None,
    finished: bool = True,
    steps_why: str = "",
    dynamic_seconds: float | None = None,
    pretrained: dict[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> Result:
    """Measure a model's exact loss at every token of the validation part, and generate a sample.

    Of a large part the loss is an estimate, and so is that of the model learning as it reads where
    it would take more than `dynamic_seconds` or more tokens than training read. `baselines` and
    `split` are those of the same text and tokens, where they are known already. Other `ranks` take
    their share of the exact loss, and are then dismissed.
    """
    size = trained.config.model.context_size
    ranks.tell("measure")
    with keeping_logits(trained.model, dataset.validation) as logits:
        tokens, nats = exact_losses(trained, dataset, ranks)
    ranks.tell("end", status=0)
    if tokens is not dataset.validation or ranks.world > 1:  # which have computed a part each
        logits = None
    # Of a large part, what the exact loss has measured is read as one text, with nothing between:
    # 10 million tokens would take two minutes to read.
    read_on, frozen = tokens, nats
    if dataset.answers is not None:
        read_on, frozen = dataset.validation, None
        scored = dataset.scored(nats)
        nats, tokens = scored, dataset.measured[: len(scored) + 1]
    # No more than training has read: a short run, or a rung of a ladder, would take longer to
    # measure than to train. Counting alone is quick.
    read = steps * trained.config.tokens_per_step
    most = None if trained.config.model.family == "counts" else max(1, read)
    return Result(
        trained=trained,
        corpus=corpus,
        dataset=dataset,
        steps=steps,
        seconds=seconds,
        evaluation=summarise(trained.tokenizer, dataset.measured, nats, None, block_size=size),
        measured=tokens,
        nats=nats,
        baselines=baselines or count_baselines(trained.model, trained.config.model, dataset),
        split=split or measure_split(corpus, dataset),
        sample=generate_sample(trained.model, dataset, max_new_tokens=SAMPLE_TOKENS),
        dynamic=trained.evaluate_dynamically(
            dataset.train,
            read_on,
            answers=dataset.validation_answers,
            frozen=frozen,
            frozen_logits=logits,
            max_positions=most,
            seconds=dynamic_seconds,
        ),
        peak_memory_mib=peak_memory_mib,
        energy_joules=energy_joules,
        finished=finished,
        steps_why=steps_why,
        pretrained=pretrained,
    )


def exact_losses(
    trained: TrainedModel, dataset: Dataset, ranks: Ranks = ALONE
) -> tuple[Tokens, Floats]:
    """What of the validation part is measured, and the loss at each of its tokens but the first.

    Several ranks call it together, each for a share of the tokens.
    """
    tokens = spread(dataset.validation, MOST_EVALUATED)
    if dataset.answers is not None:  # from the beginning on, so that it is known which are answers
        tokens = dataset.validation[:MOST_EVALUATED]
    if trained.config.model.pretrained and trained.config.train.precision == "bfloat16":
        # As in training: a large model in float32 would take several times as long.
        trained.model.compute_dtype = torch.bfloat16
    size = trained.config.model.context_size
    return tokens, losses(trained.model, tokens, block_size=size, ranks=ranks)


def peak_memory_mib() -> float | None:
    """This process's peak memory, where the system reports it."""
    try:
        import resource
    except ImportError:
        return None
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # on macOS, bytes
    return round(kilobytes / (1024 if sys.platform != "darwin" else 1024**2), 1)
