"""Every setting there is: frozen dataclasses, presets, and TOML in and out. Never imports torch.

A field's name is unique over all sections, so `n_layer` and `model.n_layer` both name it. Values
come, strongest first, from flags, the environment (`HORNBOOK_N_LAYER=6`), a TOML file, a preset.
"""

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self, get_type_hints

import msgspec
import tomli_w
from msgspec import Meta

from hornbook.errors import ConfigError
from hornbook.storage.files import SETTINGS_BYTES, read_regular

Count = Annotated[int, Meta(ge=1, le=2**40)]
Index = Annotated[int, Meta(ge=0, le=2**62)]
Rate = Annotated[float, Meta(ge=0, le=10)]
Share = Annotated[float, Meta(ge=0, le=1)]
Beta = Annotated[float, Meta(ge=0, lt=1)]

# A gpt reads a text in pieces of at least so many tokens (see `ModelConfig.context_size`).
READ_AT_ONCE = 4096

NOT_SETTINGS = {"HORNBOOK_DATA_DIR", "HORNBOOK_CACHE_DIR", "HORNBOOK_DEBUG"}


@dataclass(frozen=True, kw_only=True)
class Section:
    """A group of settings that checks its own values.

    Raises: ConfigError naming the field, what was expected and what came.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            try:
                checked = msgspec.convert(value, hint)
            except msgspec.ValidationError as error:
                expected = str(error).split(" - at ")[0].removesuffix(f", got `{value!r}`")
                raise ConfigError(f"{name} = {value!r}: {expected}") from None
            object.__setattr__(self, name, checked)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """What to learn from, and how it is cut into tokens."""

    corpus: str = "python-docs"
    encoding: str | None = None
    tokenizer: Literal["char", "byte", "bpe"] = "char"
    bpe_vocab_size: Annotated[int, Meta(ge=256, le=2**20)] = 1024
    validation_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.1


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The network's shape. The vocabulary's size is the tokenizer's."""

    model: Literal[
        "ngram", "bigram", "average", "head", "heads", "feedforward", "residual", "layernorm", "gpt"
    ] = "gpt"
    with_counts: bool = False
    # Beside a network, and for the baselines, the end of a longer text is counted; a plan for
    # minutes may take less of it.
    counted_tokens: Count = 5_000_000
    # The counts' own settings; an order of 0 is chosen on held-out text.
    order: Annotated[int, Meta(ge=0, le=64)] = 0
    smoothing: Literal["mle", "add-k", "witten-bell", "kneser-ney"] = "kneser-ney"
    # The best of those tried on tiny Shakespeare; see docs/experiments.md.
    add_k: Annotated[float, Meta(gt=0, le=1e6)] = 0.01
    block_size: Count = 128
    n_layer: Count = 4
    n_head: Count = 4
    n_embd: Count = 128
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.with_counts and self.model != "gpt":
            raise ConfigError(
                f"with_counts = true joins counts to a gpt, but model = {self.model!r}"
            )
        if self.reads_counts and self.order > self.block_size:
            raise ConfigError(
                f"order = {self.order} reads {self.order - 1} tokens back, but a block has "
                f"{self.block_size}; lower the order or raise block_size"
            )
        if self.model == "gpt" and self.n_embd % (2 * self.n_head):
            raise ConfigError(
                f"n_embd = {self.n_embd} does not split into n_head = {self.n_head} heads of even "
                f"width; a multiple of {2 * self.n_head} does"
            )
        in_heads = ("heads", "feedforward", "residual", "layernorm")
        if self.model in in_heads and self.n_embd % self.n_head:
            raise ConfigError(
                f"n_embd = {self.n_embd} does not split into n_head = {self.n_head} heads; a "
                f"multiple of {self.n_head} does"
            )

    @property
    def reads_counts(self) -> bool:
        """Whether the model is made from counts, alone or beside a network."""
        return self.with_counts or self.model == "ngram"

    @property
    def kind(self) -> str:
        """What figures say they are of: a network, counts, or both."""
        return f"{self.model}+counts" if self.with_counts else self.model

    @property
    def context_size(self) -> int:
        """How many tokens the trained model reads at once; a gpt goes on past its block.

        Each layer then sees `block_size` tokens back (docs/experiments.md, "Reading on").
        """
        return max(self.block_size, READ_AT_ONCE) if self.model == "gpt" else self.block_size

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def mlp_width(self) -> int:
        """8/3 of n_embd, so that three matrices cost what a plain MLP's two do; in 32s."""
        return -(-8 * self.n_embd // 96) * 32


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    """How weights move. Muon takes the blocks' matrices, AdamW all else."""

    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: Rate = 0.005
    muon_learning_rate: Rate = 0.03
    weight_decay: Rate = 0.03
    beta1: Beta = 0.9
    beta2: Beta = 0.95
    momentum: Beta = 0.9
    warmup_fraction: Share = 0.02
    decay_fraction: Share = 0.6
    gradient_clip: Annotated[float, Meta(ge=0, le=1e9)] = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """How long, in what portions, on what. With `minutes`, `hornbook.plan` settles the rest."""

    minutes: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    steps: Count = 420
    batch_size: Count = 32
    gradient_accumulation: Count = 1
    eval_interval: Count = 60
    eval_positions: Count = 16_384
    checkpoint_interval: Count = 60
    keep_last: Count = 1
    patience: Index = 0
    sample_tokens: Index = 200
    seed: Index = 1337
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "on", "off", "c"] = "auto"
    threads: Annotated[int, Meta(ge=0, le=4096)] = 0
    deterministic: bool = True


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Section):
    """How the next token is drawn. Not part of a run: chosen anew whenever a model writes."""

    temperature: Annotated[float, Meta(ge=0, le=1000)] = 1.0
    top_k: Index = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    min_p: Share = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=1000)] = 1.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of a run's settings."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def override(self, **values: Any) -> Self:
        """A copy with the named fields changed.

        Raises: ConfigError for an unknown name (with the nearest known one) or a bad value.
        """
        changes: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            section, key = locate(name)
            changes.setdefault(section, {})[key] = value
        return dataclasses.replace(
            self,
            **{
                section: dataclasses.replace(getattr(self, section), **fields)
                for section, fields in changes.items()
            },
        )

    def override_from_text(self, assignments: Mapping[str, str]) -> Self:
        """`override`, from values as typed in a shell: "6", "0.1", "true"."""
        return self.override(**{name: parse(name, text) for name, text in assignments.items()})

    def to_toml(self) -> str:
        """The settings as TOML, one table a section; a value of None is left out."""
        return tomli_w.dumps(
            {
                section: {key: value for key, value in fields.items() if value is not None}
                for section, fields in dataclasses.asdict(self).items()
            }
        )


SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "optimizer": OptimizerConfig,
    "train": TrainConfig,
}
FIELDS: dict[str, str] = {
    item.name: section for section, kind in SECTIONS.items() for item in dataclasses.fields(kind)
}


def locate(name: str) -> tuple[str, str]:
    """The section and field that `name` means, with or without its section in front.

    Raises: ConfigError, with the nearest known name.
    """
    section, _, key = name.rpartition(".")
    if key in FIELDS and section in ("", FIELDS[key]):
        return FIELDS[key], key
    near = difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(FIELDS)}"
    raise ConfigError(f"unknown setting {name!r}; {hint}")


def parse(name: str, text: str) -> Any:
    """A setting's value from text.

    Raises: ConfigError naming the field, what was expected and what came.
    """
    section, key = locate(name)
    hint = get_type_hints(SECTIONS[section], include_extras=True)[key]
    try:
        return msgspec.convert(text, hint, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name} = {text!r}: {error}") from None


def parse_assignments(assignments: list[str]) -> dict[str, str]:
    """["n_layer=6"] -> {"n_layer": "6"}.

    Raises: ConfigError for one without an equals sign.
    """
    pairs = [assignment.partition("=") for assignment in assignments]
    for name, equals, _ in pairs:
        if not equals:
            raise ConfigError(f"--set {name!r}: expected key=value, as in --set n_layer=6")
    return {name.strip(): value.strip() for name, _, value in pairs}


def environment_settings(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Settings named by HORNBOOK_ variables: HORNBOOK_N_LAYER=6 gives {"n_layer": "6"}."""
    variables = os.environ if environment is None else environment
    return {
        name.removeprefix("HORNBOOK_").lower(): value
        for name, value in variables.items()
        if name.startswith("HORNBOOK_") and name not in NOT_SETTINGS
    }


def load_config(path: str | os.PathLike[str], base: Config | None = None) -> Config:
    """Read a TOML file over `base` (the default preset when none is given).

    Raises: ConfigError naming the file, for one that is missing, malformed or has unknown keys.
    """
    try:
        tables = tomllib.loads(read_regular(path, SETTINGS_BYTES).decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the settings: {error.strerror}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid TOML: nested too deep") from None
    except ValueError as error:  # bad TOML, bad UTF-8, or a number of too many digits
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    values: dict[str, Any] = {}
    for name, value in tables.items():
        if isinstance(value, dict) and name in SECTIONS:
            values |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            values[name] = value
    try:
        return (base or laptop()).override(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def laptop() -> Config:
    """The default: a small GPT in about two minutes on two CPU cores."""
    return Config()


def quick() -> Config:
    """Twenty seconds, to see that everything works."""
    return Config().override(block_size=64, n_layer=2, n_embd=64, steps=200, eval_interval=50)


def bigram() -> Config:
    """The lecture's first model and its settings: Adam, batches of 32 blocks of 8."""
    return Config().override(
        model="bigram",
        block_size=8,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.0,
        beta2=0.999,
        warmup_fraction=0.0,
        decay_fraction=0.0,
        gradient_clip=0.0,
        steps=10_000,
        eval_interval=1000,
        checkpoint_interval=1000,
        precision="float32",
        compile="off",
    )


def ngram() -> Config:
    """Counting alone: done in one step, with nothing to train."""
    return Config().override(
        model="ngram",
        block_size=256,
        steps=1,
        eval_interval=1,
        checkpoint_interval=1,
        precision="float32",
        compile="off",
    )


def average() -> Config:
    """The ladder's second rung, with the settings that the lecture's small models share."""
    return bigram().override(
        model="average",
        n_embd=32,
        n_head=1,
        n_layer=1,
        weight_decay=0.01,
        steps=5000,
        eval_interval=500,
        checkpoint_interval=500,
    )


def head() -> Config:
    """One self-attention head, 32 wide."""
    return average().override(model="head")


def heads() -> Config:
    """Four heads, 8 wide each."""
    return average().override(model="heads", n_head=4)


def feedforward() -> Config:
    """Four heads and an MLP."""
    return heads().override(model="feedforward")


def residual() -> Config:
    """Three blocks on residual paths."""
    return heads().override(model="residual", n_layer=3)


def layernorm() -> Config:
    """Three blocks, normalised."""
    return residual().override(model="layernorm")


def lecture() -> Config:
    """`layernorm` scaled up to the lecture's last model: 10.8 million parameters, for a GPU."""
    return layernorm().override(
        n_layer=6,
        n_head=6,
        n_embd=384,
        block_size=256,
        dropout=0.2,
        batch_size=64,
        learning_rate=3e-4,
        precision="auto",
    )


PRESETS: dict[str, Callable[[], Config]] = {
    function.__name__: function
    for function in (
        laptop,
        quick,
        ngram,
        bigram,
        average,
        head,
        heads,
        feedforward,
        residual,
        layernorm,
        lecture,
    )
}


def preset(name: str) -> Config:
    """The preset of that name.

    Raises: ConfigError listing the presets.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]()
