"""What an export is asked to be; without torch."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal

from hornbook.errors import ConfigError, HornbookError, command
from hornbook.language import conjunction, msg

if TYPE_CHECKING:
    from hornbook.config import Config

To = Literal["hf", "gguf", "onnx"]
Weights = Literal["f32", "f16", "bf16", "q8_0"]

INSTALL: Final = "pip install 'hornbook[export]'"


class ExportError(HornbookError):
    """An export that an engine does not compute as hornbook does."""


@dataclass(frozen=True)
class Format:
    """A format: its models, the package that writes it, and the engine's that checks it."""

    models: tuple[str, ...]
    writer: str
    engine: str


FORMATS: Final[dict[To, Format]] = {
    "hf": Format(("gpt", "layernorm", "gpt2"), "safetensors", "transformers"),
    "gguf": Format(("gpt", "gpt2"), "gguf", "xllamacpp"),
    "onnx": Format(("gpt", "layernorm", "gpt2"), "onnx", "onnxruntime"),
}


@dataclass(frozen=True)
class Request:
    """A format and its options: `weights` and `windows` are GGUF's.

    `licence` is an identifier, as in the metadata of model cards. Raises: ConfigError.
    """

    to: To
    weights: Weights = "f32"
    windows: bool = True
    licence: str = ""

    def __post_init__(self) -> None:
        if self.to != "gguf" and (self.weights != "f32" or not self.windows):
            raise ConfigError(
                msg("--weights and --no-windows are for --to gguf, not for {to}", to=self.to)
            )
        if self.licence and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,63}", self.licence):
            raise ConfigError(
                msg(
                    "--license {licence!r}: expected an identifier, as mit or cc-by-sa-4.0",
                    licence=self.licence,
                )
            )

    @property
    def format(self) -> Format:
        """What is known of the format."""
        return FORMATS[self.to]

    @property
    def module(self) -> Any:
        """Its module, with `files` and `engines`."""
        return importlib.import_module(f"hornbook.interop.{self.to}")

    def check(self, config: Config) -> None:
        """Check that the format has a form for a run's model, and that its package is installed.

        Raises: ConfigError.
        """
        model, models = config.model, self.format.models
        if model.reads_counts or model.with_mixer:
            facts = {
                "to": self.to,
                "kind": model.kind,
                "command": command("train", config.data.corpus, "--model", "gpt"),
            }
            if model.reads_counts:
                raise ConfigError(
                    msg(
                        "n-grams have no form in {to}, and this run's model ({kind}) has them; a "
                        "network alone has one: {command}",
                        **facts,
                    )
                )
            raise ConfigError(
                msg(
                    "a mixer has no form in {to}, and this run's model ({kind}) has one; a "
                    "network alone has one: {command}",
                    **facts,
                )
            )
        if model.model not in models:
            raise ConfigError(
                msg(
                    "--to {to} has no form of the model {model}; it has one of {known}",
                    to=self.to,
                    model=model.model,
                    known=conjunction(models),
                )
            )
        if not self.windows and model.context_length is not None:
            raise ConfigError(
                msg("--no-windows is for hornbook's own GPT: this run's model has none")
            )
        if not find_spec(self.format.writer):
            raise ConfigError(
                msg(
                    "--to {to} needs the package {package}: {install}",
                    to=self.to,
                    package=self.format.writer,
                    install=INSTALL,
                )
            )
