"""The settings of a run and their types: frozen dataclasses that check their own values.

A field's name is unique over all sections, so `n_layer` and `model.n_layer` both name it.
"""

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Annotated, Any, Literal, Self, get_args, get_origin, get_type_hints

import msgspec
import tomli_w
from msgspec import Meta

from hornbook.config.spec import MODELS, ModelSpec, spec_of
from hornbook.errors import ConfigError, reason
from hornbook.language import msg
from hornbook.storage.files import SETTINGS_BYTES, read_regular

Count = Annotated[int, Meta(ge=1, le=2**40)]
Index = Annotated[int, Meta(ge=0, le=2**62)]
Rate = Annotated[float, Meta(ge=0, le=10)]
Share = Annotated[float, Meta(ge=0, le=1)]
Beta = Annotated[float, Meta(ge=0, lt=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Factor = Annotated[float, Meta(gt=0, le=1e6)]

# The least context length of a model that reads past its block (see `ModelConfig.context_size`).
READ_AT_ONCE = 4096
# Tokens that a mixer needs at least, and holds out from the network at most.
FEWEST_MIXED, MOST_HELD_OUT, HELD_OUT_PART = 10_000, 50_000, 28

NOT_SETTINGS = {
    "HORNBOOK_API_KEY",
    "HORNBOOK_CACHE_DIR",
    "HORNBOOK_COLAB",  # docs/conf.py
    "HORNBOOK_DATA_DIR",
    "HORNBOOK_DEBUG",
    "HORNBOOK_LANG",
    "HORNBOOK_SITE",  # docs/conf.py
    "HORNBOOK_STORE_CACHE_MB",
}


@cache
def hints_of(section: type) -> dict[str, Any]:
    """The type of each field of a section, with its limits."""
    return get_type_hints(section, include_extras=True)


def one_of(value: object, choices: Iterable[str]) -> str:
    """What was expected in place of a value, with the nearest choice where one is near."""
    known = list(choices)
    near = difflib.get_close_matches(str(value), known, n=1)
    listed = ", ".join(known)
    if not near:
        return msg("expected one of {choices}", choices=listed)
    return msg("expected one of {choices}; did you mean {near}?", choices=listed, near=near[0])


def converted(name: str, value: object, hint: Any, *, strict: bool = True) -> Any:
    """A setting's value, checked against its type; text becomes that type unless `strict`.

    Raises: ConfigError naming the field, what was expected and what came.
    """
    try:
        return msgspec.convert(value, hint, strict=strict)
    except msgspec.ValidationError as error:
        expected = str(error).split(" - at ")[0].removesuffix(f", got `{value!r}`")
        if get_origin(hint) is Literal:
            expected = one_of(value, get_args(hint))
        raise ConfigError(
            msg("{name} = {value!r}: {expected}", name=name, value=value, expected=expected)
        ) from None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A group of settings that checks its own values.

    Raises: ConfigError naming the field, what was expected and what came.
    """

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():
            object.__setattr__(self, name, converted(name, getattr(self, name), hint))


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """The text to learn from, and how it is cut into tokens."""

    corpus: str = "python-docs"
    encoding: str | None = None
    # One field of JSON Lines, CSV or Parquet as the text, with U+001E between the documents.
    field: str | None = None
    # The text is JSON Lines of messages, or of prompts and responses; only answers are learned.
    conversations: bool = False
    # The Jinja program that makes a text of messages; by default the model's, or a simple one.
    chat_template: str | None = None
    # "auto" is the best of the first three on held-out text; "pretrained" is that of the model that
    # training begins from.
    tokenizer: Literal["char", "byte", "bpe", "auto", "pretrained"] = "char"
    bpe_vocab_size: Annotated[int, Meta(ge=256, le=2**20)] = 1024
    validation_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    # Of a store, the groups that blocks are drawn from, by weights: web=0.7,code=0.3.
    mix: str | None = None
    # "lf" reads CRLF and CR as LF; "nfc" composes characters, "nfd" decomposes them.
    newlines: Literal["keep", "lf"] = "keep"
    normalize: Literal["nfc", "nfd", "none"] = "none"


Family = Literal["network", "counts", "network and counts"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """Which model, and its shape. The size of the vocabulary is the tokenizer's."""

    model: str = "gpt"
    # Join the network and n-grams of the same text in one model.
    with_counts: bool = False
    # Mix the network's probabilities with those of many contexts, which go on learning in a text
    # (kernels/mixer.c). The end of the training text is held out from the network for it.
    with_mixer: bool = False
    # How many tokens n-grams are counted on at most, from the end of the training text: beside a
    # network and for the baselines. A plan for minutes may lower it.
    counted_tokens: Count = 5_000_000
    # The n-grams' own settings; an order of 0 is chosen on held-out text.
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
    # Where the first weights come from: a run, a folder, a GGUF file or a name on the Hub.
    pretrained: str | None = None
    # The rank of LoRA's factors, which are trained in place of the matrices of blocks.
    lora_rank: Annotated[int, Meta(ge=1, le=4096)] | None = None
    # What a network from elsewhere has of its own. What is not given follows from the sizes above,
    # and a GPT without `context_length` reads past its block through windows.
    context_length: Count | None = None
    n_kv_head: Count | None = None
    head_width: Count | None = None
    mlp_width: Count | None = None
    sliding_window: Count | None = None
    norm_epsilon: Annotated[float, Meta(gt=0, le=1)] | None = None
    query_key_norm: bool = True
    rotary_base: Annotated[float, Meta(ge=1, le=1e12)] | None = None
    # Factor, low and high frequency factor, and the context length before scaling (Llama 3).
    rotary_scaling: tuple[Factor, Factor, Factor, Count] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model not in MODELS:
            raise ConfigError(
                msg(
                    "model = {model!r}: {one_of}",
                    model=self.model,
                    one_of=one_of(self.model, MODELS),
                )
            )
        if self.with_counts and not self.spec.joins_counts:
            raise ConfigError(
                msg(
                    "with_counts = true joins n-grams to a gpt, but model = {model!r}",
                    model=self.model,
                )
            )
        if self.with_mixer and not self.spec.joins_counts:
            raise ConfigError(
                msg(
                    "with_mixer = true mixes the contexts of a text with a gpt, but model = "
                    "{model!r}",
                    model=self.model,
                )
            )
        if self.reads_counts and self.order > self.block_size:
            raise ConfigError(
                msg(
                    "order = {order} reads {back} tokens back, but a block has {block_size}; "
                    "lower the order or raise block_size",
                    order=self.order,
                    back=self.order - 1,
                    block_size=self.block_size,
                )
            )
        self.spec.check(self)

    @property
    def spec(self) -> ModelSpec:
        """What hornbook knows of the model."""
        return spec_of(self.model)

    @property
    def reads_counts(self) -> bool:
        """Whether the model holds n-grams, alone or beside a network."""
        return self.with_counts or self.spec.counted

    @property
    def kind(self) -> str:
        """The model's name, with what it is joined with."""
        counts, mixer = "+counts" * self.with_counts, "+mixer" * self.with_mixer
        return f"{self.model}{counts}{mixer}"

    @property
    def family(self) -> Family:
        """What the model is made of."""
        if self.spec.counted:
            return "counts"
        return "network and counts" if self.with_counts or self.with_mixer else "network"

    @property
    def context_size(self) -> int:
        """The context length: a block, or more for a model that reads past its block.

        Each layer then sees `block_size` tokens back (docs/experiments.md, "Context length at
        evaluation").
        """
        if self.context_length is not None:
            return max(self.block_size, self.context_length)
        return max(self.block_size, READ_AT_ONCE) if self.spec.windows else self.block_size

    def held_out(self, n_tokens: int) -> int:
        """How many tokens, of so many, are left to the mixer: it learns there to trust the network.

        Of too short a text none, and then there is no mixer.
        """
        if not self.with_mixer or n_tokens < FEWEST_MIXED:
            return 0
        return min(MOST_HELD_OUT, n_tokens // HELD_OUT_PART)

    def parameter_count(self, vocab_size: int) -> int:
        """The parameters of the network, without building it; n-grams beside it have none."""
        return self.spec.parameters(self, vocab_size)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    """The optimizer. Muon updates the matrices of blocks, AdamW all other parameters."""

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
    """How long, in batches of what size, on what. With `minutes`, `hornbook.plan` sets the rest."""

    minutes: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    steps: Count = 420
    # How many steps were planned after which step, where that changed: 0:420,4:512. The learning
    # rate follows it; the command on a report card has it, to make a run again. 420e:840 says that
    # the run had ended at step 420, with an evaluation, and was extended.
    replanned: Annotated[
        str, Meta(pattern=r"^(\d{1,9}e?:[1-9]\d{0,9}(,\d{1,9}e?:[1-9]\d{0,9})*)?$")
    ] = ""
    batch_size: Count = 32
    gradient_accumulation: Count = 1
    eval_interval: Count = 60
    eval_positions: Count = 16_384
    checkpoint_interval: Count = 60
    keep_last: Count = 1
    # Write checkpoints by a thread while training goes on, from a copy in memory.
    async_save: Literal["auto", "on", "off"] = "auto"
    patience: Index = 0
    sample_tokens: Index = 200
    seed: Index = 1337
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "on", "off", "c"] = "auto"
    threads: Annotated[int, Meta(ge=0, le=4096)] = 0
    deterministic: bool = True
    # Keep only what enters each block, and compute the rest again in the backward pass.
    recompute: bool = False
    # Of torchrun's processes: "ddp" shares each batch out, "fsdp" the weights too, and with "none"
    # the first one trains alone.
    parallel: Literal["auto", "ddp", "fsdp", "none"] = "auto"
    # How long a process waits in a step for another one before it counts as lost.
    rank_timeout_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 300


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Section):
    """How the next token is drawn. Not part of a run: each generation chooses its own."""

    temperature: Annotated[float, Meta(ge=0, le=1000)] = 1.0
    top_k: Index = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    min_p: Share = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: dict[Index, Bias] = field(default_factory=dict)

    @cached_property
    def changes_logits(self) -> bool:
        """Whether logits are changed before they are scaled: by a bias or a penalty."""
        penalties = self.presence_penalty or self.frequency_penalty
        return bool(self.repetition_penalty != 1 or penalties or self.logit_bias)

    @cached_property
    def cuts(self) -> bool:
        """Whether unlikely tokens are dropped."""
        return self.top_k > 0 or self.min_p > 0 or self.top_p < 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of a run's settings."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step of training reads."""
        return self.train.batch_size * self.train.gradient_accumulation * self.model.block_size

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
        return self.override(**parse_all(assignments))

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
    hint = msg("known: {names}", names=", ".join(FIELDS))
    if near:
        hint = msg("did you mean {near}?", near=near[0])
    raise ConfigError(msg("unknown setting {name!r}; {hint}", name=name, hint=hint))


def parse(name: str, text: str) -> Any:
    """A setting's value from text.

    Raises: ConfigError naming the field, what was expected and what came.
    """
    section, key = locate(name)
    return converted(name, text, hints_of(SECTIONS[section])[key], strict=False)


def parse_all(assignments: Mapping[str, str]) -> dict[str, Any]:
    """{"n_layer": "6"} -> {"n_layer": 6}.

    Raises: as `parse`.
    """
    return {name: parse(name, text) for name, text in assignments.items()}


def parse_assignments(assignments: list[str]) -> dict[str, str]:
    """["n_layer=6"] -> {"n_layer": "6"}.

    Raises: ConfigError for one without an equals sign.
    """
    pairs = [assignment.partition("=") for assignment in assignments]
    for name, equals, _ in pairs:
        if not equals:
            raise ConfigError(
                msg("--set {name!r}: expected key=value, as in --set n_layer=6", name=name)
            )
    return {name.strip(): value.strip() for name, _, value in pairs}


def environment_settings(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Settings named by HORNBOOK_ variables: HORNBOOK_N_LAYER=6 gives {"n_layer": "6"}."""
    variables = os.environ if environment is None else environment
    return {
        name.removeprefix("HORNBOOK_").lower(): value
        for name, value in variables.items()
        if name.startswith("HORNBOOK_") and name not in NOT_SETTINGS
    }


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings in a TOML file by name, the section in front where the file has one.

    Raises: ConfigError naming the file, for one that is missing or malformed.
    """
    try:
        tables = tomllib.loads(read_regular(path, SETTINGS_BYTES).decode())
    except OSError as error:
        raise ConfigError(
            msg("{path}: cannot read the settings: {strerror}", path=path, strerror=reason(error))
        ) from None
    except RecursionError:
        raise ConfigError(msg("{path}: not valid TOML: nested too deep", path=path)) from None
    except ValueError as error:  # bad TOML, bad UTF-8, or a number of too many digits
        raise ConfigError(msg("{path}: not valid TOML: {error}", path=path, error=error)) from None
    values: dict[str, Any] = {}
    for name, value in tables.items():
        if isinstance(value, dict) and name in SECTIONS:
            values |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            values[name] = value
    return values
