"""What a run was made from, and the command that makes it again."""

import shlex
from dataclasses import asdict, dataclass

from hornbook.config import FIELDS, PRESETS, Config
from hornbook.errors import HornbookError
from hornbook.report.reading import alphabet
from hornbook.result import Result

# Chosen by each machine for itself.
OF_THE_MACHINE = ("device", "precision", "compile", "threads")
FLAGS = ("steps", "patience", "seed", "tokenizer", "encoding")


@dataclass(frozen=True)
class Origin:
    """Text, settings, machine and command of a run."""

    corpus: str
    corpus_sha256: str
    characters: int
    bytes: int
    lines: int
    training_characters: int
    validation_characters: int
    validation_fraction: float
    tokenizer: str
    vocab_size: int
    alphabet: list[str]
    settings: dict[str, object]
    environment: dict[str, str]
    command: str

    def as_dict(self) -> dict[str, object]:
        """The facts as JSON has them."""
        return asdict(self)


def trace(result: Result) -> Origin:
    """The facts of a run, from its settings, its text, and what its folder noted at the start."""
    config, text = result.trained.config, result.corpus.text
    cut = int((1 - config.data.validation_fraction) * len(text))
    try:
        environment = result.folder.environment_facts()
    except HornbookError:
        environment: dict[str, object] = {}
    return Origin(
        corpus=result.corpus.name,
        corpus_sha256=result.corpus.sha256,
        characters=len(text),
        bytes=len(text.encode("utf-8", "surrogatepass")),
        lines=text.count("\n") + (not text.endswith("\n")),
        training_characters=cut,
        validation_characters=len(text) - cut,
        validation_fraction=config.data.validation_fraction,
        tokenizer=config.data.tokenizer,
        vocab_size=result.trained.tokenizer.vocab_size,
        alphabet=alphabet(text),
        settings=settings_of(config),
        environment={str(key): str(value) for key, value in environment.items()},
        command=command_for(config),
    )


def settings_of(config: Config) -> dict[str, object]:
    """Every setting by its name."""
    return {name: getattr(getattr(config, section), name) for name, section in FIELDS.items()}


def command_for(config: Config) -> str:
    """The shortest `hornbook train` that asks for these settings."""
    settings = settings_of(config)

    def differences(preset: Config) -> dict[str, object]:
        usual = settings_of(preset)
        return {
            name: value
            for name, value in settings.items()
            if value != usual[name] and name not in (*OF_THE_MACHINE, "corpus")
        }

    name, differing = min(
        ((name, differences(make())) for name, make in PRESETS.items()),
        key=lambda candidate: len(candidate[1]),
    )
    words = ["hornbook", "train", str(settings["corpus"])]
    words += [] if name == "laptop" else ["--preset", name]
    for key, value in differing.items():
        if value is None:
            continue
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        words += [f"--{key}", shown] if key in FLAGS else ["--set", f"{key}={shown}"]
    return shlex.join(words)
