"""What a run was made from, and the command that repeats it."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hornbook.config import FIELDS, Config, preset, preset_names
from hornbook.errors import HornbookError
from hornbook.report.characters import alphabet
from hornbook.runs.result import Result
from hornbook.training.pace import replanned

# Each machine chooses these for itself; other weights come of other choices.
OF_THE_MACHINE = ("device", "precision", "compile", "threads")
# Enough to find a text's letters, and which are frequent.
COUNTED_CHARACTERS = 10_000_000
FLAGS = ("steps", "patience", "seed", "tokenizer", "encoding")


@dataclass(frozen=True)
class Origin:
    """Text, settings, machine and command of a run."""

    corpus: str
    corpus_sha256: str
    characters: int
    bytes: int
    lines: int
    training_lines: int
    training_characters: int
    validation_characters: int
    validation_fraction: float
    tokenizer: str
    vocab_size: int
    alphabet: list[str]
    settings: dict[str, object]
    environment: dict[str, str]
    command: str


def trace(result: Result) -> Origin:
    """The facts of a run, from its settings, its text, and what its folder noted at the start."""
    config, corpus = result.trained.config, result.corpus
    cut = corpus.split_place(config.data.validation_fraction)
    size = lines = training_lines = place = 0
    seen: Counter[str] = Counter()
    ending = "\n"
    for chunk in corpus.chunks():
        size += len(chunk.encode("utf-8", "surrogatepass"))
        lines += chunk.count("\n")
        training_lines += chunk.count("\n", 0, max(0, cut - place))
        if place < COUNTED_CHARACTERS:
            seen.update(chunk)
        place += len(chunk)
        ending = chunk[-1:]
    environment: dict[str, object] = {}
    with suppress(HornbookError):  # a run is shown without them
        environment = result.folder.environment_facts()
    return Origin(
        corpus=corpus.name,
        corpus_sha256=corpus.sha256,
        characters=corpus.characters,
        bytes=size,
        lines=lines + (ending != "\n"),
        training_lines=training_lines,
        training_characters=cut,
        validation_characters=corpus.characters - cut,
        validation_fraction=config.data.validation_fraction,
        tokenizer=config.data.tokenizer,
        vocab_size=result.trained.tokenizer.vocab_size,
        alphabet=alphabet(seen),
        settings=settings_of(config),
        environment={str(key): str(value) for key, value in environment.items()},
        command=command_for(config, list(result.folder.metrics_rows()), ended=result.finished),
    )


def settings_of(config: Config) -> dict[str, object]:
    """Every setting by its name."""
    return {name: getattr(getattr(config, section), name) for name, section in FIELDS.items()}


def command_for(
    config: Config, rows: Sequence[Mapping[str, Any]] = (), *, ended: bool = False
) -> str:
    """The shortest `hornbook train` command that gives the same weights, on such a machine.

    `rows` are the run's metrics: a run limited by time is made again by the steps that it took.
    `ended` says that it takes no more.
    """
    train = config.train
    # Patience stops a run again by itself; the time that was up does not.
    cut = ended and len(rows) < train.steps and bool(train.minutes or not train.patience)
    steps, replan = replanned(rows, train.steps, cut=cut)
    settings = settings_of(config.override(steps=steps, replanned=replan, minutes=0.0))

    def differences(name: str) -> dict[str, object]:
        usual, always = settings_of(preset(name)), ("steps", *OF_THE_MACHINE)
        return {
            key: value
            for key, value in settings.items()
            if key != "corpus" and (key in always or value != usual[key])
        }

    name = min(preset_names(), key=lambda name: len(differences(name)))
    words = ["hornbook", "train", str(settings["corpus"])]
    words += [] if name == "laptop" else ["--preset", name]
    for key, value in differences(name).items():
        if value is None:
            continue
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        words += [f"--{key}", shown] if key in FLAGS else ["--set", f"{key}={shown}"]
    return shlex.join(words)
