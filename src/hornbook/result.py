"""How a run ended: the exact loss, the baselines beside it, a sample and a picture."""

import json
import math
import sys
import warnings
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from hornbook.arrays import Tokens
from hornbook.counting import NGramModel
from hornbook.data import Dataset
from hornbook.errors import DataError
from hornbook.evaluation import Evaluation, per_char
from hornbook.run import RunFolder, load
from hornbook.storage import write_atomically
from hornbook.training import Training
from hornbook.tuning import tune

SAMPLE_TOKENS = 500
LONGEST_NGRAM = 8
# A large text's end is measured in bounded time and memory. Counting 4 million characters took
# 250 MB; a million positions take the default model well under a minute on two cores.
MOST_COUNTED = 5_000_000
MOST_EVALUATED = 1_000_000


@dataclass(frozen=True)
class Baselines:
    """What needs no network: nats per character on the same validation text, by counting."""

    uniform: float
    bigram: float
    ngram: float
    ngram_order: int


@dataclass(frozen=True)
class Result:
    """A finished run in figures."""

    folder: RunFolder
    model: str
    step: int
    steps: int
    tokens: int
    seconds: float
    parameters: int
    evaluation: Evaluation
    baselines: Baselines
    counted_tokens: int
    sample: str
    peak_memory_mib: float | None

    def as_dict(self) -> dict[str, object]:
        """The figures as `train --json` prints them."""
        return {
            "run": str(self.folder.path),
            "model": self.model,
            "steps": self.steps,
            "best_step": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 2),
            "parameters": self.parameters,
            "peak_memory_mib": self.peak_memory_mib,
            **{f"val_{name}": value for name, value in self.evaluation.as_dict().items()},
            "baselines_nats_per_char": asdict(self.baselines),
            "baselines_counted_tokens": self.counted_tokens,
        }


def conclude(training: Training, baselines: Baselines | None = None) -> Result:
    """Measure the best weights exactly, count the baselines, write sample, picture and figures.

    Of a large text the loss is an estimate, and the baselines count what comes last in training.
    `baselines` are those of the same text and tokens, where they have been counted already.
    Raises: CheckpointError when the run cannot be read back.
    """
    folder = training.folder
    best = load(folder.path, device=training.machine.device.value)
    result = Result(
        folder=folder,
        model=training.config.model.kind,
        step=best.step,
        steps=training.step,
        tokens=training.step * training.tokens_per_step,
        seconds=training.seconds,
        parameters=training.model.parameter_count,
        evaluation=best.evaluate_tokens(training.dataset.validation, max_positions=MOST_EVALUATED),
        baselines=baselines or count_baselines(training.dataset),
        counted_tokens=min(len(training.dataset.train), MOST_COUNTED),
        sample=best.generate(max_new_tokens=SAMPLE_TOKENS, temperature=0.8),
        peak_memory_mib=peak_memory_mib(),
    )
    write_atomically(folder.sample, (result.sample + "\n").encode())
    write_atomically(folder.result, json.dumps(result.as_dict(), indent=1).encode())
    draw(result, folder.picture)
    return result


def count_baselines(dataset: Dataset) -> Baselines:
    """Bigram counts, and the best n-gram model; order and discounts chosen on training text."""
    size = dataset.tokenizer.vocab_size
    scale = per_char(dataset.tokenizer, dataset.validation)
    train, validation = dataset.train[-MOST_COUNTED:], spread(dataset.validation, MOST_EVALUATED)

    def nats(model: NGramModel) -> float:
        # Like the network: every token but the first, which it can read but not be asked.
        first, rest = validation[:1], validation[1:]
        return scale * model.cross_entropy(rest, context=first)

    bigram = NGramModel.fit(train, size, order=2)
    try:
        order, discounts, _ = tune(train, size, max_order=LONGEST_NGRAM)
        best = NGramModel.fit(train, size, order=order, discounts=discounts)
    except DataError:
        # Too little text to hold any out: the bigram is all that can be counted.
        order, best = 2, bigram
    return Baselines(
        uniform=scale * float(np.log(size)),
        bigram=nats(bigram),
        ngram=nats(best),
        ngram_order=order,
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


def draw(result: Result, path: Path) -> None:
    """The loss curves of a run as a picture, with the counted baselines as levels."""
    from matplotlib.figure import Figure

    rows = list(result.folder.metrics_rows())
    if all(row["val_loss"] is None for row in rows):
        return  # the log was lost, and there is no curve
    scale = result.evaluation.nats_per_char / result.evaluation.nats_per_token
    if not math.isfinite(scale):
        return  # "mle" counts alone can have an infinite loss, and no curve
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    train = np.array([[row["step"], row["train_loss"] * scale] for row in rows])
    validation = np.array(
        [[row["step"], row["val_loss"] * scale] for row in rows if row["val_loss"] is not None]
    )
    axes.plot(*train.T, color="tab:blue", alpha=0.35, linewidth=0.8, label="training batch")
    axes.plot(*validation.T, color="tab:orange", marker="o", markersize=3, label="validation")
    baselines = result.baselines
    levels = {"bigram counts": baselines.bigram}
    if baselines.ngram_order != 2:
        levels[f"{baselines.ngram_order}-gram counts"] = baselines.ngram
    for style, (name, value) in zip((":", "--"), levels.items(), strict=False):
        axes.axhline(value, color="tab:gray", linestyle=style, linewidth=1, label=name)
    lowest = min(validation[:, 1].min(), train[:, 1].min(), baselines.ngram)
    axes.set_ylim(lowest - 0.1, baselines.uniform + 0.1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per character)")
    axes.set_title(f"{result.folder.path.name}: {result.evaluation.nats_per_char:.4f} nats/char")
    axes.legend()
    picture = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that the font lacks is drawn as a box
        figure.savefig(picture, dpi=120)
    write_atomically(path, picture.getvalue())
